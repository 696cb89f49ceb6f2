"""The rules that make mutants of a source file: each mutant is one small change of one expression or statement.

Comparisons move their boundary or are reversed. Arithmetic, bit and boolean operators become their counterparts. A minus or a not is
dropped. Numbers become one more, one less, zero or negative. min and max and other such pairs are swapped. Conditions are negated. Statements
that change something are removed. Return values are negated or dropped. No mutant changes docstrings, annotations,
messages, imports, field descriptions of pydantic, or the hyperparameters of families (class Config and PRESETS), because these are choices.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
OPERATORS: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.Mult,),
    ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,), ast.BitXor: (ast.BitOr,), ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
}  # fmt: skip
PAIRS = (
    ("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("argmin", "argmax"), ("any", "all"), ("floor", "ceil"), ("sum", "mean"),
    ("log", "log1p"), ("exp", "expm1"), ("zeros", "ones"), ("zeros_like", "ones_like"), ("sin", "cos"), ("lower", "upper"),
)  # fmt: skip
SWAPPED = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
SAYS = {
    "Field",
    "ConfigDict",
    "warn",
    "warning",
    "info",
    "debug",
    "error",
    "TypeVar",
    "cast",
    "Literal",
}  # calls that only describe something


@dataclass(frozen=True)
class Mutant:
    """A file with one change."""

    file: str
    function: str  # qualified name; empty in the module itself
    line: int
    lines: range  # lines whose tests may detect the change
    kind: str
    before: str  # the replaced text
    after: str
    place: str  # the line's function, text and occurrence; it stays the same if the line moves
    key: str
    original: str
    source: str

    def record(self) -> dict[str, Any]:
        """Return the fields of the mutant that a result contains."""
        place = {"key": self.key, "file": self.file, "line": self.line, "function": self.function}
        return {**place, "kind": self.kind, "before": self.before, "after": self.after}

    @property
    def is_python(self) -> bool:
        """Return whether the changed file is valid Python."""
        try:
            ast.parse(self.source)
        except SyntaxError:
            return False
        return True


def digest(*parts: str) -> str:
    """Return a short hash of texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def of_file(file: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of a file."""
    lines = source.encode().splitlines(keepends=True)  # ast counts columns in bytes
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    whole = source.encode()
    seen: dict[str, int] = {}
    for scope, node, kind, after in _changes(ast.parse(source)):
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        before = whole[begin:end].decode()
        changed = (whole[:begin] + after.encode() + whole[end:]).decode()
        text = lines[node.lineno - 1].decode().strip()
        place = digest(file, scope.function, text)
        name = f"{place}{node.col_offset - (len(lines[node.lineno - 1]) - len(lines[node.lineno - 1].lstrip()))}{kind}{after}"
        seen[name] = seen.get(name, 0) + 1  # a function may contain the same line twice
        key = digest(name, str(seen[name]))
        yield Mutant(
            file, scope.function, node.lineno, scope.lines or range(scope.statement, node.end_lineno + 1),
            kind, before, after, f"{place}.{seen[name]}", key, source, changed,
        )  # fmt: skip


@dataclass(frozen=True)
class _Scope:
    """The place of a node: its function or class, the first line of its statement, and the lines whose tests use its definition."""

    function: str = ""
    statement: int = 0
    # lines of the function or class; None in a function's body, where the lines of the statement determine which tests
    # run it
    lines: range | None = None


def _changes(tree: ast.Module) -> Iterator[tuple[_Scope, Any, str, str]]:
    """Yield (scope, node, kind, new text)."""
    waiting: list[tuple[ast.AST, _Scope]] = [(tree, _Scope(lines=range(10**9)))]
    while waiting:
        node, scope = waiting.pop()
        if scope.function == "Config" or _is_preset(node):
            continue
        if isinstance(node, ast.stmt):
            scope = replace(scope, statement=node.lineno)
        for kind, target, after in _of_node(node, scope.function):
            yield scope, target, kind, after
        for child in reversed(list(_children(node))):
            waiting.append((child, _inner(scope, node, child)))


def _inner(scope: _Scope, node: ast.AST, child: ast.AST) -> _Scope:
    """Return the scope of a node's child. A function's body runs when it is called; defaults and class bodies run when the module is imported."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return scope
    name = f"{scope.function}.{node.name}".lstrip(".")
    runs = isinstance(child, ast.stmt) and not isinstance(node, ast.ClassDef)
    return _Scope(name, scope.statement, None if runs else range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _is_preset(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign | ast.AnnAssign) and "PRESETS" in ast.unparse(node).split("=")[0]


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the child nodes in which mutants are made."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_params") or (
            isinstance(node, ast.Raise) and name == "exc"
        ):
            continue
        if isinstance(node, ast.Assert):
            continue  # asserts are for the type checker
        if isinstance(node, ast.Call) and _name(node.func) in SAYS:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom):
                yield child


def _of_node(node: ast.AST, function: str) -> Iterator[tuple[str, Any, str]]:
    if isinstance(node, ast.Compare):
        for place, kind in enumerate(node.ops):
            for other in COMPARISONS.get(type(kind), ()):
                ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                yield "comparison", node, f"({ast.unparse(ast.Compare(node.left, ops, node.comparators))})"
    elif isinstance(node, ast.BinOp) and not _is_text(node.left) and not _is_text(node.right):
        for operator in OPERATORS.get(type(node.op), ()):
            yield "arithmetic", node, f"({ast.unparse(ast.BinOp(node.left, operator(), node.right))})"
    elif isinstance(node, ast.AugAssign):
        for operator in OPERATORS.get(type(node.op), ()):
            yield "arithmetic", node, ast.unparse(ast.AugAssign(node.target, operator(), node.value))
        yield "statement", node, "pass"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield ("minus" if isinstance(node.op, ast.USub) else "not"), node, f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.BoolOp):
        other_kind = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and/or", node, f"({ast.unparse(ast.BoolOp(other_kind, node.values))})"
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node)
    elif isinstance(node, ast.Attribute) and node.attr in SWAPPED and isinstance(node.ctx, ast.Load):
        yield "pair", node, ast.unparse(ast.Attribute(node.value, SWAPPED[node.attr], ast.Load()))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SWAPPED:
        yield "pair", node.func, SWAPPED[node.func.id]
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield "condition", node.test, f"(not ({ast.unparse(node.test)}))"
    elif isinstance(node, ast.Return) and function and node.value is not None:
        yield from _of_return(node)
    elif function and _is_dispensable(node):
        yield "statement", node, "pass"


def _is_dispensable(node: ast.AST) -> bool:
    """Return whether removing a statement loses only its effect."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call) and _name(node.value.func) not in SAYS
    return isinstance(node, ast.Raise | ast.Break | ast.Continue)


def _of_constant(node: ast.Constant) -> Iterator[tuple[str, Any, str]]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", node, str(not value)
    elif isinstance(value, int | float):
        others: set[Any] = (
            {value + 1, value - 1, 0, -value} if isinstance(value, int) else {value * 1.5, value / 2, 0.0, -value}
        )
        for other in sorted(others - {value}):
            yield "constant", node, f"({other!r})"


def _of_return(node: ast.Return) -> Iterator[tuple[str, Any, str]]:
    value = node.value
    if isinstance(value, ast.Constant) and value.value is None:
        return
    yield "return", node, "return None"
    if isinstance(value, ast.Compare | ast.BoolOp) or (
        isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not)
    ):
        yield "return", node, f"return not ({ast.unparse(value)})"
    elif isinstance(value, ast.BinOp):
        yield "return", node, f"return -({ast.unparse(value)})"


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
