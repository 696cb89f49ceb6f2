"""The declared facts of families and data sets, read from their source without importing it.

Commands check names, options and kinds of data with them, before torch is imported (which takes seconds) and before a data set is downloaded.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifold.runtime.errors import InvalidValue, cut, near, shown
from manifold.training.errors import TrainingError

PACKAGE = Path(__file__).parent
ITEMS = ("images", "rows")  # the items that a family learns, if it does not declare them
PRESETS = ("smoke", "cpu", "gpu")  # the presets of every family
CHECKPOINT = "checkpoint.safetensors"  # the file of a run folder that shows that training began
MODULE = "manifold.training"  # modules below it can hold a base class of a family's options


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
    """Return the data sets by name."""
    found = (_constants(PACKAGE / "datasets" / f"{stem}.py") for stem in _stems("datasets"))
    outlines = (DataOutline(each["NAME"], each["ITEMS"], each["HAS_CLASSES"]) for each in found)
    return {each.name: each for each in sorted(outlines, key=lambda each: each.name)}


def data_set(name: str) -> DataOutline | None:
    """Return the data set with this name, in which dashes and underscores are equal. None if there is none."""
    plain = name.replace("-", "_")
    return next((each for each in data_sets().values() if each.name.replace("-", "_") == plain), None)


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
    """Raise TrainingError for an unknown family."""
    if name not in families():
        raise TrainingError(
            f"family: unknown family {shown(name)}{near(name, families())}; valid are {', '.join(families())}",
            field="family",
            valid=families(),
        )


def check_data(family: str, name: str, settings: Sequence[str]) -> None:
    """Raise TrainingError if a data set does not have what a family needs. `settings` are the KEY=VALUE of the command line."""
    found, declared = data_set(name), _constants(PACKAGE / "families" / f"{family}.py")
    if found is None:
        return
    needed: tuple[str, ...] = declared.get("ITEMS", ITEMS)
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
    valid = options(family)
    for setting in settings:
        key, separator, _ = setting.partition("=")
        if not separator:
            raise TrainingError(
                f"--set {shown(setting)}: not of the form KEY=VALUE; write it as --set epochs=5", field=key
            )
        if key not in valid:
            raise TrainingError(
                f"{cut(key)}: unknown option{near(key, valid)}; valid are {', '.join(valid)}", field=key, valid=valid
            )


@functools.cache
def options(family: str) -> list[str]:
    """Return the names of a family's options, in the order of its `Config`."""
    return list(dict.fromkeys(_fields(PACKAGE / "families" / f"{family}.py", "Config")))


def _with(items: str) -> list[str]:
    """Return the names of the data sets of images or of rows."""
    return [each.name for each in data_sets().values() if each.items == items]


def _stems(folder: str) -> list[str]:
    return sorted(path.stem for path in (PACKAGE / folder).glob("[!_]*.py"))


def _fields(path: Path, name: str) -> list[str]:
    """Return the fields of a class in a file: those of its bases first, the last base first, as pydantic orders them."""
    tree = _tree(path)
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        return _imported(tree, name)
    fields: list[str] = []
    for base in reversed(found.bases):
        fields += _imported(tree, ast.unparse(base))
    own = (node.target for node in found.body if isinstance(node, ast.AnnAssign))
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
            case ast.Assign(targets=[ast.Name(id=name)]):
                with contextlib.suppress(ValueError):  # the value is not a literal
                    found[name] = ast.literal_eval(node.value)
    return found


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
