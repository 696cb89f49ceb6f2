#!/usr/bin/env bash
# Runs the tests with lint, types and (unless they are left out) the public client beside them, on one machine.
#
#   tests/beside.sh [--fast] [options of pytest]
#
# Only pytest writes to the terminal while it runs. What the others wrote follows when it has ended, then the end of pytest's output once more,
# so that it is the last thing on the screen and in a log. The status is 0 if all of them succeeded.
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

public() { # in an environment of its own: the public client's protobuf is not the service's
  .venv-tritonclient/bin/pytest -c tests/public_client/pytest.ini --confcutdir tests/public_client tests/public_client
}

lint >"$out/lint" 2>&1 &
linting=$!
others=("lint and types:lint:$linting")
if [[ " $* " != *" --fast "* ]]; then
  public >"$out/public" 2>&1 &
  others+=("the public client:public:$!")
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
