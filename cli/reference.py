"""The page docs/reference/commands.md, made from the command line itself: `python -m manifold.cli.reference FILE`."""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.models import ArgumentInfo, OptionInfo

from manifold import cli
from manifold.cli.outputs import write

INTRODUCTION = """\
# Commands

`manifold COMMAND --help` prints the same text. `manifold --version` prints the versions of Manifold, ONNX Runtime and torch.
`manifold --install-completion` installs completion for your shell: commands, options, and the names of models, data sets and families.

This page is made from the command line by `make docs`.
"""

STATUSES = """\
## Exit status

All commands, and `python -m manifold.service`, end with one of these statuses.

| status | meaning |
|---|---|
"""

KINDS = {str: "text", int: "integer", float: "number", Path: "path"}
LARGE = 2**63 - 1


def page() -> str:
    """Return the page as Markdown: every command with its arguments, options and defaults, and the exit statuses."""
    parts = [INTRODUCTION]
    for subject in cli.SUBJECTS:
        parts.append(f"## {subject.title}\n")
        parts += [_of_command(command, example) for command, example in subject.commands]
    parts.append(STATUSES + "".join(f"| {number} | {text} |\n" for number, text in cli.STATUSES.items()))
    return "\n".join(parts)


def _of_command(command: Callable[..., Any], example: str) -> str:
    """Return the section of one command."""
    name, arguments, options = cli.name_of(command), [], []
    usage = ["manifold", name, "[OPTIONS]"]
    hints = typing.get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        kind, info = typing.get_args(hints[parameter.name])
        required = parameter.default is inspect.Parameter.empty
        if isinstance(info, ArgumentInfo):
            arguments.append(f"| `{info.metavar}` | {_cell(info.help)} |")
            repeated = f"{info.metavar} ..." if _is_list(kind) else str(info.metavar)
            usage.append(repeated if required else f"[{repeated}]")
        else:
            default = "required" if required else _default(info, parameter.default)
            options.append(f"| {_flags(parameter.name, info, kind)} | {_cell(info.help)} | {default} |")
    if not options:
        usage.remove("[OPTIONS]")
    parts = [f"### manifold {name}\n", f"    {' '.join(usage)}\n", f"{inspect.cleandoc(command.__doc__ or '')}\n"]
    if example:
        parts.append(f"Example:\n\n    manifold {name} {example}\n")
    if arguments:
        parts.append("\n".join(["| argument | meaning |", "|---|---|", *arguments]) + "\n")
    if options:
        parts.append("\n".join(["| option | meaning | default |", "|---|---|---|", *options]) + "\n")
    return "\n".join(parts)


def _flags(name: str, info: OptionInfo, kind: Any) -> str:
    """Return the names of an option with the kind of its value."""
    first = (
        [info.default] if isinstance(info.default, str) and info.default.startswith("-") else []
    )  # so Annotated is read
    names = [*first, *(info.param_decls or ())] or [f"--{name.rstrip('_').replace('_', '-')}"]
    flags = ", ".join(f"`{flag}`" for flag in names)
    plain = _plain(kind)
    if plain is bool:
        return flags
    bounds = [
        f"{word} {bound:,}" for word, bound in (("from", info.min), ("to", info.max)) if bound not in (None, LARGE)
    ]
    value = info.metavar or " ".join([KINDS[plain], *bounds])
    return f"{flags} {value}"


def _plain(kind: Any) -> Any:
    """Return the type of one value of an annotation such as list[Path] | None."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    return typing.get_args(kind)[0] if _is_list(kind) else kind


def _is_list(kind: Any) -> bool:
    """Return whether an annotation is a list, or a list or None."""
    return list in (typing.get_origin(each) for each in (kind, *typing.get_args(kind)))


def _default(info: OptionInfo, default: Any) -> str:
    """Return the default value, and the environment variable that replaces it."""
    shown = "" if default in (None, "") or isinstance(default, bool) else f"`{default}`"
    return ", or ".join(filter(None, (shown, f"`{info.envvar}`" if info.envvar else "")))


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("|", r"\|")


def main() -> None:
    """Write the page to the file that is named on the command line."""
    write(Path(sys.argv[1]), page().encode())


if __name__ == "__main__":
    main()
