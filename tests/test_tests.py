"""The tests themselves: each can fail, because it runs the project's code and checks the result."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

OURS = {"manifold", "manifold_client", "benchmarks", "tests"}
OF_PYTEST = {"tmp_path", "tmp_path_factory", "monkeypatch", "request", "capsys", "capfd", "caplog", "recwarn"}
# functions of pytest; numpy's names begin with assert_, and functions named check_ raise
CHECKS = {"raises", "warns", "fail"}
OF_LIBRARIES = {"test_uvicorn"}  # tests of another library's behaviour, on purpose
HERE = Path(__file__).parent
FILES = sorted(
    path for folder in (HERE, HERE / "evaluation") for path in folder.glob("test_*.py") if path != Path(__file__)
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """The names in one test file: those imported from the project, and those defined in the file."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.imported: set[str] = set()
        self.defined: dict[str, ast.AST] = {}
        self.helpers: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
                self.imported |= {alias.asname or alias.name for alias in node.names}
                self.helpers |= _checking(node)
            elif isinstance(node, ast.Import):
                names = {
                    alias.asname or alias.name.split(".")[0] for alias in node.names if alias.name.split(".")[0] in OURS
                }
                self.imported |= names
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.defined[node.name] = node
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                if isinstance(target, ast.Name):
                    self.defined[target.id] = node

    def tests(self) -> Iterator[Function]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield node

    def behind(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the node, the definitions in this file of the names that it uses, and all their parts."""
        waiting, seen = [node], {id(node)}
        while waiting:
            for part in ast.walk(waiting.pop()):
                yield part
                name = part.id if isinstance(part, ast.Name) else part.arg if isinstance(part, ast.arg) else ""
                further = self.defined.get(name)
                if further is not None and id(further) not in seen:
                    seen.add(id(further))
                    waiting.append(further)

    def reaches_the_project(self, test: Function) -> bool:
        """Return whether the test uses a name of the project, or a fixture that is neither pytest's nor this file's."""
        parameters = {name for call in test.decorator_list for name in _parametrised(call)}
        for part in self.behind(test):
            if isinstance(part, ast.Name) and part.id in self.imported:
                return True
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and _names_ours(part.value):
                return True  # a command that runs the project
        arguments = {argument.arg for argument in test.args.args}
        return bool(arguments - parameters - OF_PYTEST - set(self.defined))

    def checks(self, test: Function) -> bool:
        """Return whether the test asserts something, itself or in a function that it calls."""
        for part in self.behind(test):
            if isinstance(part, ast.Assert | ast.Raise):
                return True
            if isinstance(part, ast.Name) and (part.id in self.helpers or part.id.startswith("check_")):
                return True
            if isinstance(part, ast.Attribute) and (part.attr in CHECKS or part.attr.startswith("assert_")):
                return True
        return False


def _checking(node: ast.ImportFrom) -> set[str]:
    """Return the imported names that are functions of another test file and assert something there."""
    path = Path(__file__).parent.parent / f"{(node.module or '').replace('.', '/')}.py"
    if not (node.module or "").startswith("tests.") or not path.exists():
        return set()
    functions = [part for part in ast.parse(path.read_text()).body if isinstance(part, ast.FunctionDef)]
    asserting = {f.name for f in functions if any(isinstance(part, ast.Assert) for part in ast.walk(f))}
    return {alias.asname or alias.name for alias in node.names if alias.name in asserting}


def _names_ours(text: str) -> bool:
    return any(f"{name}." in text or f"-m {name}" in text or f"import {name}" in text for name in OURS)


def _parametrised(call: ast.AST) -> set[str]:
    """Return the arguments to which a decorator `parametrize` gives values."""
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "parametrize"):
        return set()
    names = [node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)]
    return {name.strip() for text in names if isinstance(text, str) for name in text.split(",")}


def found(source: str) -> list[str]:
    """Return the problems of the tests in a file, by line."""
    module, problems = Module(source), []
    for test in module.tests():
        if not module.reaches_the_project(test):
            problems.append(f"{test.name}: runs nothing of the project")
        if not module.checks(test):
            problems.append(f"{test.name}: asserts nothing")
        for part in ast.walk(test):
            if isinstance(part, ast.Assert) and not any(
                isinstance(x, ast.Name | ast.Call) for x in ast.walk(part.test)
            ):
                problems.append(f"{test.name}, line {part.lineno}: asserts a constant")
            if isinstance(part, ast.Assert) and isinstance(part.test, ast.Tuple | ast.GeneratorExp | ast.Lambda):
                problems.append(f"{test.name}, line {part.lineno}: asserts what is always true")
            if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr == "raises":
                kind = part.args[0] if part.args else None
                if isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException") and not part.keywords:
                    problems.append(f"{test.name}, line {part.lineno}: takes any exception, also one of the test's own")
    return problems


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_test_can_fail(path: Path) -> None:
    problems = found(path.read_text())
    if path.stem in OF_LIBRARIES:
        problems = [problem for problem in problems if "runs nothing of the project" not in problem]
    assert problems == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("x = 2 * 3\n    assert x == 6", "runs nothing of the project"),
        ("sampling.uniform(0, 0, 1, 2, ())", "asserts nothing"),
        ("sampling.pick(1, 2)\n    assert 1 < 2", "asserts a constant"),
        ("assert (sampling.pick(1, 2), 'message')", "asserts what is always true"),
        ("assert (sampling.pick(i, 2) for i in range(3))", "asserts what is always true"),
        ("with pytest.raises(Exception):\n        sampling.pick(1, 2)", "takes any exception"),
        ("helper()", "asserts nothing"),
    ],
)
def test_a_test_that_cannot_fail_is_found(body: str, problem: str) -> None:
    source = (
        f"import pytest\nfrom runtime import sampling\n\ndef helper():\n    return 3\n\ndef test_x():\n    {body}\n"
    )
    assert any(problem in line for line in found(source))


def test_what_a_helper_does_counts() -> None:
    source = "from manifold.runtime import sampling\n\ndef check():\n    assert sampling.pick(1, 2) == 3\n\ndef test_x():\n    check()\n"
    assert found(source) == []
