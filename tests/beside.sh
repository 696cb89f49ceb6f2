#!/usr/bin/env bash
# Runs the tests. Lint and types run at the same time and, without --fast, the tests of the public client and the build of the documentation.
#
#   tests/beside.sh [--fast] [options of pytest]
#
# Only pytest writes to the terminal while it runs. The output of the others follows after its end, then the end of pytest's output again,
# so that it is the last text on the screen and in a log. The status is 0 if all of them succeeded.
set -uo pipefail
bin=${BIN:-.venv/bin}
out=$(mktemp -d)
export PYTHONDONTWRITEBYTECODE= # otherwise each process that a test starts compiles the project again
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$out"' EXIT
trap 'exit 130' INT TERM

lint() {
  local status=0
  "$bin/ruff" check . || status=1
  "$bin/ruff" format --check . || status=1
  "$bin/mypy" || status=1
  "$bin/python" -m tests.words || status=1
  return $status
}

public() { # in its own environment: the public client needs another protobuf than the service
  .venv-tritonclient/bin/pytest -c tests/public_client/pytest.ini --confcutdir tests/public_client tests/public_client
}

site() { # every link between pages, and all Markdown, as the site has them
  "$bin/python" -m sphinx -W --keep-going -q -d "$out/doctrees" docs "$out/pages"
}

lint >"$out/lint" 2>&1 &
linting=$!
others=("lint and types:lint:$linting")
if [[ " $* " != *" --fast "* ]]; then
  public >"$out/public" 2>&1 &
  others+=("the public client:public:$!")
  site >"$out/site" 2>&1 &
  others+=("the documentation's site:site:$!")
fi

"$bin/pytest" -n "${PROCESSES:-3}" --dist worksteal "$@" 2>&1 | tee "$out/tests"
status=${PIPESTATUS[0]}
for each in "${others[@]}"; do
  IFS=: read -r name file process <<<"$each"
  wait "$process"
  ended=$?
  echo "--- $name: $([[ $ended == 0 ]] && echo passed || echo "FAILED with status $ended")"
  cat "$out/$file"
  [[ $ended == 0 ]] || status=1
done
echo "--- tests:"
sed -n '/short test summary info/,$p' "$out/tests" | grep . || tail -n 1 "$out/tests"
exit "$status"
