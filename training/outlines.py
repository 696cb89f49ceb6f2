"""The declared facts of families and data sets, read from their source without importing it.

Commands check names, options and kinds of data with them, before torch is imported (which takes seconds) and before a data set is downloaded.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifold.runtime.errors import InvalidValue, cut, near, shown
from manifold.training.errors import TrainingError

PACKAGE = Path(__file__).parent
ITEMS = ("images", "rows")  # the items that a family learns, if it does not declare them
PRESETS = ("smoke", "cpu", "gpu")  # the presets of every family
PRECISIONS = (
    "32-true",
    "bf16-mixed",
    "16-mixed",
)  # float32, or mixed precision, whose losses are computed under autocast
FORMATS = ("onnx", "torchscript")  # the formats of exported graphs
CHECKPOINT = "checkpoint.safetensors"  # the file of a run folder that shows that training began
MODULE = "manifold.training"  # modules below it can hold a base class of a family's options
# the names that each file must define, with what to write; those of OF_DATA with a value are literals, so that they are read here
OF_DATA = {
    "NAME": 'NAME = "my-set"', "ITEMS": 'ITEMS = "images" or "rows"', "HAS_CLASSES": "HAS_CLASSES = True or False", "LICENCE": 'LICENCE = "…"',
    "load": "the function load()",
}  # fmt: skip
OF_A_FAMILY = {
    "Config": "the class Config", "build": "the function build(config, data)", "phases": "the function phases(model, config)",
    "evaluate": "the function evaluate(model, batch)", "exports": "the function exports(model, config, data)",
}  # fmt: skip


@dataclass(frozen=True)
class DataOutline:
    """The facts that the file of a data set declares."""

    name: str
    items: str  # images or rows
    classes: bool  # whether its items have classes


def check_name(name: str) -> None:
    """Raise TrainingError if the name is not valid for an artifact."""
    from manifold.runtime.manifest import NAME

    if not re.fullmatch(NAME, name):
        raise TrainingError(
            f"name: {shown(name)} is not valid; use at most 64 letters, digits, '.', '_' and '-'", field="name"
        )


def families() -> list[str]:
    """Return the names of the families."""
    return _stems("families")


def data_sets() -> dict[str, DataOutline]:
    """Return the data sets by name. A file that is not complete is left out: `data_set` reports it to those who use it."""
    found: list[DataOutline] = []
    for stem in _stems("datasets"):
        with contextlib.suppress(TrainingError):
            found.append(_data_outline(stem))
    return {each.name: each for each in sorted(found, key=lambda each: each.name)}


def data_set(name: str) -> DataOutline | None:
    """Return the data set with this name, in which dashes and underscores are equal. None if there is none.

    Raises TrainingError if its file lacks a required name.
    """
    stem = name.replace("-", "_")
    return _data_outline(stem) if stem in _stems("datasets") else None


def check_items(name: str, items: str, where: str) -> None:
    """Raise InvalidValue if the data set `name` has other items than the needed ones, images or rows. Paths are not checked."""
    found = data_set(name)
    if found is not None and found.items != items:
        raise InvalidValue(
            f"{where}: {shown(name)} has {found.items}, but {items} are needed; use one of {', '.join(_with(items))}",
            field=where.lstrip("-"),
            valid=_with(items),
        )


def check_family(name: str) -> None:
    """Raise TrainingError for an unknown family, and for one whose file lacks a required name."""
    if name not in families():
        raise TrainingError(
            f"family: unknown family {shown(name)}{near(name, families())}; valid are {', '.join(families())}",
            field="family",
            valid=families(),
        )
    _check_names(_path("families", name), OF_A_FAMILY)
    _items_of(name)


def check_data(family: str, name: str, settings: Sequence[str]) -> None:
    """Raise TrainingError if a data set does not have what a family needs. `settings` are the KEY=VALUE of the command line."""
    found, declared = data_set(name), _constants(_path("families", family))
    if found is None:
        return
    needed = _items_of(family)
    if found.items not in needed:
        valid = [each.name for each in data_sets().values() if each.items in needed]
        raise TrainingError(
            f"data: {shown(name)} has {found.items}, but the family {family} learns {' or '.join(needed)}; use one of {', '.join(valid)}, or a file or "
            "folder of your own",
            field="data",
            valid=valid,
        )
    replaced = declared.get("INSTEAD_OF_CLASSES")  # the option that makes classes unnecessary
    if (
        declared.get("NEEDS_CLASSES")
        and not found.classes
        and replaced not in [each.partition("=")[0] for each in settings]
    ):
        valid = [each.name for each in data_sets().values() if each.items in needed and each.classes]
        raise TrainingError(
            f"data: {shown(name)} has no classes, but the family {family} needs them; use one of {', '.join(valid)}, or another family",
            field="data",
            valid=valid,
        )


def check_settings(family: str, settings: Sequence[str]) -> None:
    """Raise TrainingError for a setting of the command line that is not KEY=VALUE, or whose key is not an option of the family."""
    valid, unused = options(family), _constants(_path("families", family)).get("UNUSED", ())
    for setting in settings:
        key, separator, _ = setting.partition("=")
        if not separator:
            raise TrainingError(
                f"--set {shown(setting)}: not of the form KEY=VALUE; write it as --set epochs=5", field=key
            )
        if key in unused:
            raise TrainingError(
                f"{key}: has no effect on the family {family}, which takes no training steps; remove it, or choose a family that trains a network",
                field=key,
            )
        if key not in valid:
            raise TrainingError(
                f"{cut(key)}: unknown option{near(key, valid)}; valid are {', '.join(valid)}", field=key, valid=valid
            )


@functools.cache
def options(family: str) -> list[str]:
    """Return the names of a family's options that have an effect, in the order of its `Config`."""
    path = _path("families", family)
    unused = _constants(path).get("UNUSED", ())
    return [name for name in dict.fromkeys(_fields(path, "Config")) if name not in unused]


def has_steps(family: str) -> bool:
    """Return whether a family takes training steps: its options of steps have an effect. A family without a file of its own takes steps."""
    return not _path("families", family).is_file() or "epochs" in options(family)


def terms(family: str) -> tuple[str, ...]:
    """Return the terms that the option `score` of a family can name, if the family declares them."""
    return tuple(_constants(_path("families", family)).get("TERMS", ()))


def _with(items: str) -> list[str]:
    """Return the names of the data sets of images or of rows."""
    return [each.name for each in data_sets().values() if each.items == items]


def _stems(folder: str) -> list[str]:
    return sorted(path.stem for path in (PACKAGE / folder).glob("[!_]*.py"))


def _path(folder: str, stem: str) -> Path:
    return PACKAGE / folder / f"{stem}.py"


def _data_outline(stem: str) -> DataOutline:
    """Return the declared facts of a data set. Raises TrainingError if its file lacks a required name, or if a value is not valid."""
    path = _path("datasets", stem)
    _check_names(path, OF_DATA)
    found = _constants(path)
    valid = {
        "NAME": isinstance(found.get("NAME"), str) and found["NAME"].replace("-", "_") == stem,
        "ITEMS": found.get("ITEMS") in ITEMS,
        "HAS_CLASSES": isinstance(found.get("HAS_CLASSES"), bool),
    }
    for name in (each for each in valid if not valid[each]):
        example = f'NAME = "{stem}"' if name == "NAME" else OF_DATA[name]
        raise TrainingError(f"{_shown(path)}: {name} {_value(found, name)}; write {example}")
    return DataOutline(found["NAME"], found["ITEMS"], found["HAS_CLASSES"])


def _items_of(family: str) -> tuple[str, ...]:
    """Return the items that a family learns. Raises TrainingError if ITEMS of its file is not a tuple of them."""
    path = _path("families", family)
    found = _constants(path)
    items = found.get("ITEMS", ITEMS)
    if (
        ("ITEMS" in _defined(path) and "ITEMS" not in found)
        or not isinstance(items, tuple)
        or not all(each in ITEMS for each in items)
        or not items
    ):
        raise TrainingError(
            f'{_shown(path)}: ITEMS {_value(found, "ITEMS")}; write ITEMS = ("images",), ("rows",) or ("images", "rows")'
        )
    return items


def _value(found: Mapping[str, Any], name: str) -> str:
    """Return what is wrong with the value of a constant, for an error."""
    return f"= {shown(found[name])} is not valid" if name in found else "is not a literal"


def _check_names(path: Path, needed: Mapping[str, str]) -> None:
    """Raise TrainingError if a file does not define all names that are needed."""
    missing = [name for name in needed if name not in _defined(path)]
    if missing and "*" not in _defined(path):
        raise TrainingError(
            f"{_shown(path)}: lacks {', '.join(missing)}; add {', '.join(needed[name] for name in missing)}",
            valid=list(needed),
        )


def _shown(path: Path) -> str:
    """Return the path of a file for an error, such as training/datasets/digits.py."""
    return path.relative_to(PACKAGE.parent).as_posix()


def _fields(path: Path, name: str) -> list[str]:
    """Return the fields of a class that a file defines or imports."""
    return _of_class(_tree(path), name)


def _of_class(tree: ast.Module, name: str) -> list[str]:
    """Return the fields of a class in a parsed file: those of its bases first, the last base first, as pydantic orders them."""
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        return _imported(tree, name)
    fields: list[str] = []
    for base in reversed(found.bases):
        fields += _of_class(tree, ast.unparse(base))
    own = (
        node.target
        for node in found.body
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).startswith("ClassVar")
    )
    return [*fields, *(target.id for target in own if isinstance(target, ast.Name))]


def _imported(tree: ast.Module, base: str) -> list[str]:
    """Return the fields of a class that a file imports from this package and names as NAME or MODULE.NAME. Other classes have no fields."""
    module, _, name = base.rpartition(".")
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module is not None and f"{node.module}.".startswith(f"{MODULE}."):
            for alias in node.names:
                if (alias.asname or alias.name) == (module or name):
                    parts = [*node.module.split(".")[2:], *([alias.name] if module else [])]
                    return _fields(PACKAGE.joinpath(*parts).with_suffix(".py"), name if module else alias.name)
    return []


def _constants(path: Path) -> dict[str, Any]:
    """Return the constants of a module whose values are literals."""
    found: dict[str, Any] = {}
    for node in _tree(path).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                with contextlib.suppress(ValueError):  # the value is not a literal
                    found[name] = ast.literal_eval(value)
    return found


def _defined(path: Path) -> set[str]:
    """Return the names that a module defines or imports at its top level; "*" if it imports all names of another one."""
    found: set[str] = set()
    for node in _tree(path).body:
        match node:
            case ast.Assign(targets=targets):
                found |= {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {each.asname or each.name for each in names}
    return found


@functools.cache
def _tree(path: Path) -> ast.Module:
    """Return the parsed source of a file. Raises TrainingError if it is not valid Python."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise TrainingError(f"{_shown(path)}: line {error.lineno}: {error.msg}; correct the file") from None
