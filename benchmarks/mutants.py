"""Mutation testing: the share of small random errors in the code that the tests find.

    python benchmarks/mutants.py cover [--store mutants] [OPTIONS OF PYTEST]   record once which test runs which line: about ten minutes
    python benchmarks/mutants.py run [--store mutants] [--n 400] [--seed 20]   test one mutant after the other; it can be stopped and resumed.
                                                                               With --part 1/2 and --part 2/2, two processes share the work
    python benchmarks/mutants.py again [--store mutants] [--all]               test survivors (or all) again, after tests were added
    python benchmarks/mutants.py verify [--store mutants]                      check that tests that killed pass without a mutant
    python benchmarks/mutants.py report [--store mutants]                      print the score and the survivors

Mutants are made in runtime/ and in the mathematics of training/ and evaluation/ (`SCOPE`), by the rules of `benchmarks/mutations.py`. A
sample is drawn by hashes of seed, place and text, so an edit elsewhere does not change it. Each mutant is tested in a copy of the tree, in a
process that is forked from one that has imported the large libraries and no module of the project. It runs the tests that cover its line, the
most specific first, until one fails: first those that neither train nor export, then the others. A mutant is

- killed, if a test fails, ends the process or exceeds its time or memory;
- survived, if every test that covers its line passes;
- uncovered, if no test covers its line, which counts as survived;
- equivalent, if benchmarks/mutants.equivalent.json gives the reason why no test can tell it from the code. Those do not count in the score.

The store is a folder: `coverage.json`, and `results.jsonl` with one JSON line for each mutant. It is not part of the repository.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mutations
from mutations import Mutant

ROOT = Path(__file__).parent.parent
SCOPE = (
    "runtime/**/*.py", "training/families/*.py", "training/networks/*.py", "training/scores/*.py",
    *(f"training/{name}.py" for name in (
        "bounds", "data/schema", "data/tables", "datasets/shapes", "datasets/transactions", "exporting/classes", "exporting/folds", "exporting/loops",
        "exporting/priors", "likelihoods", "loop/average", "loop/watching", "phases",
    )),
    *(f"evaluation/{name}.py" for name in (
        "anomaly", "disentanglement", "evaluate_model", "frechet", "latent", "metrics", "reference", "resize", "statistics",
    )),
)  # fmt: skip
EQUIVALENT = ROOT / "benchmarks/mutants.equivalent.json"
LIBRARIES = (
    "numpy", "torch", "torch.onnx", "scipy.stats", "scipy.linalg", "sklearn.ensemble", "sklearn.mixture", "sklearn.neighbors", "sklearn.metrics",
    "onnx", "onnxruntime", "onnxscript", "pyarrow.parquet", "pyarrow.csv", "PIL.Image", "matplotlib.figure", "lightning_fabric", "safetensors.torch",
    "fastapi", "starlette.testclient", "pydantic", "pydantic_settings", "prometheus_client", "structlog", "typer.testing", "hypothesis.extra.numpy",
    "pytest", "_pytest.assertion.rewrite", "httpx", "pooch", "rich.progress", "yaml", "trustme", "constriction", "uvicorn",
)  # fmt: skip
ELSEWHERE = (  # test files that depend on timing, or that need gRPC, which does not work after a fork
    "process", "worker", "keeper", "connections", "deploy", "tracing", "rpc",
)  # fmt: skip
FAST_TESTS, ALL_TESTS = 40, 80  # most tests for one mutant
CPU_SECONDS, MEMORY = 120, 6 * 2**30  # limits of one mutant's process; the memory limit covers data, not address space


# --- which test runs which line -----------------------------------------------------------------------------------------------


class Contexts:
    """A pytest plugin that records the lines of the project which each test runs, set-up included, and the duration of the test."""

    def __init__(self, path: Path) -> None:
        import coverage

        packages = [str(ROOT / name) for name in ("runtime", "training", "evaluation")]
        self.path, self.coverage = path, coverage.Coverage(data_file=None, source=packages)
        self.coverage.set_option("run:disable_warnings", ["no-data-collected", "couldnt-parse", "module-not-imported"])
        self.by_test: dict[str, dict[str, Any]] = {}
        self.coverage.start()

    def pytest_runtest_setup(self, item: Any) -> None:
        self.coverage.switch_context(f"setup|{item.nodeid}")

    def pytest_runtest_call(self, item: Any) -> None:
        self.coverage.switch_context(f"call|{item.nodeid}")

    def pytest_runtest_logreport(self, report: Any) -> None:
        test = self.by_test.setdefault(report.nodeid, {"seconds": 0.0, "passed": True, "lines": {}})
        test["seconds"] += report.duration
        test["passed"] &= report.outcome == "passed"

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        setups: dict[str, dict[str, list[int]]] = defaultdict(dict)
        for path in data.measured_files():
            file = str(Path(path).relative_to(ROOT))
            lines: dict[str, list[int]] = defaultdict(list)
            for line, contexts in data.contexts_by_lineno(path).items():
                for context in contexts:
                    lines[context].append(line)
            for context, numbers in lines.items():
                when, _, name = context.partition("|")
                if name in self.by_test:
                    _add(self.by_test[name]["lines"], {file: numbers})
                if when == "setup":  # fixtures are set up by the first test of a file; the other tests use them too
                    _add(setups[name.split("::")[0]], {file: numbers})
        for name, test in self.by_test.items():
            _add(test["lines"], setups[name.split("::")[0]])
        self.path.write_text(json.dumps(self.by_test))


def _add(to: dict[str, list[int]], lines: dict[str, list[int]]) -> None:
    for file, numbers in lines.items():
        to[file] = sorted({*to.get(file, ()), *numbers})


def cover(store: Path, options: Sequence[str]) -> None:
    """Run the tests in this process and add the lines that they cover to the store."""
    import pytest

    path = store / "new.json"
    os.chdir(ROOT)
    plugin = Contexts(path)
    pytest.main(["-p", "no:cacheprovider", *(options or ["tests"])], plugins=[plugin])
    new = json.loads(path.read_text())
    file = store / "coverage.json"
    tests = json.loads(file.read_text())["tests"] if file.exists() else {}
    sources = {str(source.relative_to(ROOT)): source.read_text() for source in _sources(ROOT)}
    tests = _moved(tests, json.loads(file.read_text())["sources"], sources) if tests else {}
    file.write_text(json.dumps({"tests": tests | new, "sources": sources}))
    path.unlink()
    print(
        f"{len(new)} tests, of which {sum(not test['passed'] for test in new.values())} did not pass; the store has {len(tests | new)}"
    )


def _sources(root: Path) -> list[Path]:
    return sorted({path for pattern in SCOPE for path in root.glob(pattern) if path.name != "__init__.py"})


def _moved(tests: dict[str, Any], old: dict[str, str], new: dict[str, str]) -> dict[str, Any]:
    """Return the tests with the line numbers of the new sources."""
    places = {file: _places(old[file], new[file]) for file in old if file in new}
    return {
        name: {
            **test,
            "lines": {
                file: [places[file][line] for line in lines if line in places[file]]
                for file, lines in test["lines"].items()
                if file in places
            },
        }
        for name, test in tests.items()
    }


def _collected() -> set[str]:
    """Return the names of all tests of the tree."""
    done = subprocess.run(
        [ROOT / ".venv/bin/pytest", "--collect-only", "--no-header", "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True,
        check=True, text=True,
    )  # fmt: skip
    return {line for line in done.stdout.splitlines() if "::" in line}


@functools.cache
def _places(old: str, new: str) -> dict[int, int]:
    """Return the new number of each line that still exists, by its old number."""
    blocks = difflib.SequenceMatcher(None, old.splitlines(), new.splitlines(), autojunk=False).get_matching_blocks()
    return {block.a + i + 1: block.b + i + 1 for block in blocks for i in range(block.size)}


class Coverage:
    """The tests that run each line."""

    def __init__(self, store: Path) -> None:
        known = json.loads((store / "coverage.json").read_text())
        now = {str(path.relative_to(ROOT)): path.read_text() for path in _sources(ROOT)}
        # pytest ends with an error if a given test is no longer collected; that would look like a kill
        collected = _collected()
        self.tests = {
            name: test
            for name, test in _moved(known["tests"], known["sources"], now).items()
            if test["passed"] and name in collected and not any(word in name.split("::")[0] for word in ELSEWHERE)
        }
        self.by_line: dict[tuple[str, int], list[str]] = defaultdict(list)
        for name, test in self.tests.items():
            test["size"] = sum(map(len, test["lines"].values()))
            for file, lines in test["lines"].items():
                for line in lines:
                    self.by_line[file, line].append(name)

    def of(self, mutant: Mutant) -> list[str]:
        """Return the tests that run the mutant's lines: first one of each test function, the most specific first."""
        names = {
            name
            for (file, line), running in self.by_line.items()
            if file == mutant.file and line in mutant.lines
            for name in running
        }
        ordered = sorted(names, key=lambda name: (self.tests[name]["size"], self.tests[name]["seconds"], name))
        turn: Counter[str] = Counter()
        keyed = []
        for place, name in enumerate(ordered):
            function = name.split("[")[0]
            keyed.append((turn[function], place, name))
            turn[function] += 1
        return [name for _, _, name in sorted(keyed)]


# --- one mutant ---------------------------------------------------------------------------------------------------------------


class Copy:
    """A copy of the tree. One file at a time is changed in it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutants-"))
        files = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in filter(None, files.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        os.symlink(ROOT / ".venv", self.folder / ".venv")

    def write(self, file: str, text: str) -> None:
        """Write a file. Remove stale bytecode, so that Python does not load another version."""
        path = self.folder / file
        path.write_text(text)
        for cached in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            cached.unlink()


def test_in_a_fork(copy: Copy, tests: Sequence[str], options: Sequence[str], cpu: float) -> tuple[str, str]:
    """Return the outcome (passed, failed, or why the process ended) of the tests in the copy, and the first that failed."""
    output = copy.folder / "output.txt"
    child = os.fork()
    if not child:
        _child(copy.folder, tests, options, cpu, output)
    end = time.monotonic() + 20 * cpu
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "time", ""
        time.sleep(0.02)
    with _no_such_process():
        os.killpg(child, signal.SIGKILL)  # end the processes that it left behind
    text = output.read_text(errors="replace")
    failed = next(
        (line.split(" ", 1)[1].split(" - ")[0] for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))),
        "",
    )
    code = os.waitstatus_to_exitcode(status[1])
    if code < 0:
        return "time" if -code in (signal.SIGXCPU, signal.SIGKILL) else f"signal {-code}", failed
    return {0: "passed", 1: "failed", 5: "passed"}.get(code, f"status {code}"), failed or text[-300:] * (
        code not in (0, 5)
    )


def _no_such_process() -> Any:
    import contextlib

    return contextlib.suppress(ProcessLookupError)


def _child(folder: Path, tests: Sequence[str], options: Sequence[str], cpu: float, output: Path) -> None:
    """Run pytest and end this process."""
    code = 70
    try:
        os.setpgid(0, 0)
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + cpu), int(used + cpu) + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        os.chdir(folder)
        sys.path[:] = [
            str(folder),
            str(folder / "client"),
            *(path for path in sys.path if Path(path or ".").resolve() not in (ROOT, ROOT / "benchmarks")),
        ]
        os.environ["PYTHONPATH"] = f"{folder}:{folder / 'client'}"
        import pytest

        from manifold import runtime

        assert Path(runtime.__file__ or "").is_relative_to(folder), "the project itself would be tested"
        fixed = ["-x", "-q", "-p", "no:cacheprovider", "--tb=short", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = int(pytest.main([*fixed, *options, *tests]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def outcome(copy: Copy, mutant: Mutant, tests: Sequence[str]) -> dict[str, Any]:
    """Return the result of the mutant: run the tests that cover it."""
    began = time.monotonic()
    record: dict[str, Any] = {**mutant.record(), "tests": len(tests)}
    if not tests:
        return {**record, "status": "uncovered"}
    copy.write(mutant.file, mutant.source)
    try:
        for options, most in ((["--fast"], FAST_TESTS), ([], ALL_TESTS)):
            ended, by = test_in_a_fork(copy, tests[:most], options, CPU_SECONDS * (1 if options else 3))
            if ended != "passed":
                return {
                    **record,
                    "status": "killed",
                    "how": ended,
                    "by": by,
                    "seconds": round(time.monotonic() - began, 1),
                }
        return {**record, "status": "survived", "seconds": round(time.monotonic() - began, 1)}
    finally:
        copy.write(mutant.file, mutant.original)


def preload() -> None:
    """Import the large libraries, so that each fork has them already."""
    for name in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"not preloaded: {error}", file=sys.stderr)
    ours = {"runtime", "training", "evaluation", "service", "cli", "tests", "manifold_client"}
    assert not {name.split(".")[0] for name in sys.modules} & ours
    gc.collect()
    gc.freeze()


# --- many mutants -------------------------------------------------------------------------------------------------------------


def sample(n: int, seed: int) -> list[Mutant]:
    """Draw n mutants, evenly from the lines that can have one, with at most one on each line."""
    by_line: dict[str, list[Mutant]] = defaultdict(list)
    for path in _sources(ROOT):
        for mutant in mutations.of_file(str(path.relative_to(ROOT)), path.read_text()):
            by_line[mutant.place].append(mutant)
    chosen: list[Mutant] = []
    for place in sorted(by_line, key=lambda place: mutations.digest(str(seed), place)):
        if len(chosen) == n:
            break
        order = sorted(by_line[place], key=lambda mutant: mutations.digest(str(seed), mutant.key))
        chosen += [mutant for mutant in order if mutant.is_python][:1]
    return chosen


def results(store: Path) -> dict[str, dict[str, Any]]:
    """Return the last result of each mutant."""
    path = store / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {record["key"]: record for record in map(json.loads, lines)}


def run(store: Path, mutants: Sequence[Mutant], *, done: set[str]) -> None:
    """Test the mutants that are not done, and append one line for each."""
    covered, reasons = Coverage(store), json.loads(EQUIVALENT.read_text())
    preload()
    copy = Copy()
    try:
        checked = test_in_a_fork(copy, sorted(covered.tests)[:1], ["--fast"], CPU_SECONDS)
        if checked[0] != "passed":
            raise SystemExit(f"the tests do not pass in the copy without any mutant: {checked}")
        for number, mutant in enumerate(mutants):
            if mutant.key in done:
                continue
            record = (
                {**mutant.record(), "status": "equivalent"}
                if mutant.key in reasons
                else outcome(copy, mutant, covered.of(mutant))
            )
            with (store / "results.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(
                number,
                record["status"],
                f"{mutant.file}:{mutant.line}",
                mutant.kind,
                record.get("by", ""),
                flush=True,
            )
    finally:
        shutil.rmtree(copy.folder, ignore_errors=True)


def verify(store: Path) -> None:
    """Run each test that killed a mutant, without any mutant. If the test fails, its result is removed from the store."""
    records = results(store)
    tests = sorted({record["by"] for record in records.values() if "::" in record.get("by", "")})
    preload()
    copy = Copy()
    wrong = set()
    try:
        for i in range(0, len(tests), 20):
            if test_in_a_fork(copy, tests[i : i + 20], [], 20 * CPU_SECONDS)[0] != "passed":
                wrong |= {
                    test for test in tests[i : i + 20] if test_in_a_fork(copy, [test], [], CPU_SECONDS)[0] != "passed"
                }
    finally:
        shutil.rmtree(copy.folder, ignore_errors=True)
    kept = [record for record in records.values() if record.get("by") not in wrong]
    (store / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    print(
        f"{len(tests)} tests killed mutants; {len(wrong)} of them fail without any: {sorted(wrong)}; run again for {len(records) - len(kept)} mutants"
    )


def report(store: Path, mutants: Sequence[Mutant]) -> None:
    """Print the score, by kind and package, and every survivor."""
    known, keys = results(store), {mutant.key: mutant for mutant in mutants}
    records = [{**known[key], "line": mutant.line} for key, mutant in keys.items() if key in known]
    judged = [record for record in records if record["status"] != "equivalent"]
    killed = sum(record["status"] == "killed" for record in judged)
    print(f"{len(records)} of {len(mutants)} mutants: {dict(Counter(record['status'] for record in records))}")
    print(f"score {killed}/{len(judged)} = {killed / max(1, len(judged)):.1%}")
    for what, of in (("package", lambda record: record["file"].split("/")[0]), ("kind", lambda record: record["kind"])):
        for name, group in sorted(_grouped(judged, of)):
            print(f"  {what} {name}: {sum(record['status'] == 'killed' for record in group)}/{len(group)}")
    for record in records:
        if record["status"] in ("survived", "uncovered"):
            print(f"{record['status']}: {record['file']}:{record['line']} {record['kind']} [{record['key']}]")
            print(f"    - {record['before']}\n    + {record['after']}")


def _grouped(records: Sequence[dict[str, Any]], of: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[of(record)].append(record)
    yield from groups.items()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("cover", "run", "again", "verify", "report"))
    parser.add_argument("--store", type=Path, default=Path("mutants"))
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument(
        "--part", default="1/1", help="for run and again: part of the work, such as 1/2 for the first of two"
    )
    parser.add_argument("--all", action="store_true", help="for again: include mutants that were killed")
    options, rest = parser.parse_known_args()
    store = options.store.resolve()
    store.mkdir(exist_ok=True)
    os.chdir(ROOT)
    if options.command == "cover":
        return cover(store, rest)
    if options.command == "verify":
        return verify(store)
    mutants = sample(options.n, options.seed)
    if options.command == "report":
        return report(store, mutants)
    known = results(store)
    done = (
        set(known)
        if options.command == "run"
        else {key for key, record in known.items() if record["status"] == "killed" and not options.all}
    )
    if options.command == "again":
        mutants = [mutant for mutant in mutants if mutant.key in known]
    part, parts = map(int, options.part.split("/"))
    return run(store, mutants[part - 1 :: parts], done=done)


if __name__ == "__main__":
    main()
