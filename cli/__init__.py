"""The command `manifold`: a table of sub-commands by subject. Each imports what it needs when it is called, so that help is instant."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from manifold.cli import (
    artifacts,
    asking,
    compressing,
    evaluation,
    fitting,
    gradients,
    importing,
    samples,
    scoring,
    service,
    sharing,
    training,
)
from manifold.runtime import extras
from manifold.runtime.errors import ManifoldError, Unavailable

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
REMEDIES = {  # the advice for an error of the operating system
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "give the path of a file",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "choose another folder",
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space",
}
WRONG = 2  # exit status after a value of the command line, or a setting, that is not valid
MISUSE = "a value of the command line is not valid"
STATUS_OF = {"settings_error": WRONG, "interrupted": INTERRUPTED}  # by the type of an error; 1 for all others

Command = tuple[Callable[..., Any], str]  # a command, and an example of its arguments


@dataclass(frozen=True)
class Subject:
    """A group of commands in the help."""

    title: str
    commands: tuple[Command, ...]


SUBJECTS = (  # in the order of the help
    Subject("Use a model", (
        (artifacts.models, ""),
        (samples.sample, "mnist-vae -n 64 --seed 1"),
        (samples.remake, "mnist-vae.png"),
        (asking.ask, """sample '{"n": 2, "seed": 1}'"""),
        (compressing.compress, "digit.png --model mnist-vqvae -o digit.mfc"),
        (compressing.decompress, "digit.mfc"),
    )),
    Subject("Score tables", (
        (fitting.fit, "payments.csv --name my-payments --truth 'label!=normal'"),
        (scoring.score, "new-payments.csv --model my-payments -o scores.csv --explain"),
        (scoring.calibrate, "my-payments normal-payments.csv"),
    )),
    Subject("Train and publish", (
        (training.train, "vae --data digits --out runs/my-digits"),
        (training.resume, "runs/my-digits"),
        (training.export, "runs/my-digits --name my-digits"),
        (training.fit_priors, "my-digits"),
        (training.add_page, "my-digits --run runs/my-digits"),
        (training.inception, ""),
    )),
    Subject("Evaluate", (
        (evaluation.evaluate, "mnist-vae --html report.html"),
        (evaluation.compare, "mnist-vae mnist-vae:mixture mnist-gan"),
        (evaluation.evaluate_images, "made/ --against real/ --extractor mnist-classifier"),
        (evaluation.reference, "real/ --extractor mnist-classifier -o reference.npz"),
        (evaluation.disentangle, "mnist-vae-2d -o traversals.png"),
        (fitting.judge, "mnist-vae --against fashion_mnist"),
        (gradients.gradient_variance, "runs/my-digits"),
    )),
    Subject("Serve", (
        (service.serve, "--port 8080"),
        (service.open_, "mnist-vae-2d"),
        (service.key, "my-client --scope infer"),
    )),
    Subject("Artifacts", (
        (importing.import_, "generator.onnx --name my-generator"),
        (sharing.push, "my-digits /mnt/share/models"),
        (sharing.pull, "hf://OWNER/my-digits"),
        (artifacts.check, "--all"),
        (artifacts.schema, ""),
        (artifacts.catalogue, "--page models.md"),
    )),
)  # fmt: skip

TRAINING = ("train", "cpu")  # an export is checked with ONNX Runtime, which the extras cpu and gpu hold
NEEDED: dict[
    Callable[..., Any], tuple[str, ...]
] = {  # the extras of which a command needs every module; it checks them before its work begins
    asking.ask: ("cpu",),
    importing.import_: ("cpu",),
    compressing.compress: ("compress",),
    compressing.decompress: ("compress",),
    fitting.fit: TRAINING,
    scoring.score: ("tables",),
    training.train: ("train",),
    training.resume: ("train",),
    training.export: TRAINING,
    training.fit_priors: TRAINING,
    training.add_page: TRAINING,
    training.inception: TRAINING,
    evaluation.evaluate: ("evaluate",),
    evaluation.compare: ("evaluate",),
    evaluation.evaluate_images: ("evaluate",),
    evaluation.reference: ("evaluate",),
    evaluation.disentangle: ("evaluate",),
    fitting.judge: ("evaluate",),
    gradients.gradient_variance: ("train",),
}

STATUSES = {  # all commands share them, and so does `python -m manifold.service`
    0: "success. A server also ends with 0 after a signal to stop",
    1: "an error, such as a missing or damaged file, or a missing extra; the message says what to do",
    2: "a setting, an option or another value of the command line is wrong, such as an unknown model, data set or preset",
    3: "the server or its worker processes did not start",
    130: "interrupted by Ctrl-C; a training has saved its state before it ends",
}


class Subjects(TyperGroup):
    """The command group. Its help lists the commands by subject."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command. typer checks options with pydantic: the errors are put into plain words."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValueError) and hasattr(error.__cause__, "errors"):
                from manifold.runtime.problems import sentence

                error.message = sentence(error.__cause__.errors()[0])
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each subject, with one line for each command."""
        limit = formatter.width - 6 - max(map(len, self.commands))
        for subject in SUBJECTS:
            with formatter.section(subject.title):
                names = [name_of(command) for command, _ in subject.commands]
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit)) for name in names])


class Words(TyperCommand):
    """A command. Its usage line writes arguments as they are typed: FILE, not {FILE}."""

    def invoke(self, ctx: Any) -> Any:
        """Check the modules that the command needs, then run it. An error about a value of the command line gets the note MISUSE."""
        extras.check(*NEEDS.get(str(self.name), ()))
        try:
            return super().invoke(ctx)
        except ManifoldError as error:
            if (error.field or "").lstrip("-") in set(_values(ctx)) and not isinstance(error, Unavailable):
                error.add_note(MISUSE)
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


def name_of(command: Callable[..., Any]) -> str:
    """Return the name of a command on the command line."""
    return command.__name__.rstrip("_").replace("_", "-")


NEEDS = {name_of(command): needed for command, needed in NEEDED.items()}


def _values(ctx: Any) -> Iterator[str]:
    """Yield the fields of errors that are about a value of the command line: arguments, options, and keys of --set and --column.

    Arguments and options that are paths, or that were not given, are left out.
    """
    for parameter in ctx.command.params:
        if not isinstance(ctx.params.get(parameter.name), Path | None):
            yield parameter.name
            names = [each.lstrip("-") for each in (*parameter.opts, str(parameter.metavar).lower())]
            yield from (
                *names,
                *(each.replace("-", "_") for each in names),
            )  # as on the command line, and as in requests
    for name in ("settings", "kinds"):
        yield from (each.partition("=")[0] for each in ctx.params.get(name) or ())


def _statuses() -> str:
    """Return the exit statuses as a paragraph that is not wrapped."""
    return "\n".join(["\b", "Exit status:", *(f"  {number:<4} {text}" for number, text in STATUSES.items())])


app = typer.Typer(
    name="manifold", cls=Subjects, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, epilog=_statuses(),
    help="Train, export, serve and evaluate deep generative models. `manifold COMMAND --help` describes a command.",
)  # fmt: skip
for _subject in SUBJECTS:
    for _command, _example in _subject.commands:
        _name = name_of(_command)
        app.command(_name, cls=Words, epilog=f"\b\nExample:\n  manifold {_name} {_example}".rstrip())(_command)


def _print_versions(wanted: bool) -> None:
    if wanted:
        typer.echo("\n".join(extras.versions()))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_versions,
            help="Print the versions of Manifold, ONNX Runtime and torch.",
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def command() -> None:
    """Run a command as a process of its own.

    The garbage collector does not examine the objects of torch and scikit-learn again when the interpreter ends, which takes seconds.
    """
    try:
        main()
    finally:
        gc.freeze()


def main() -> None:
    """Run a command. An error of ours is one message on stderr; STATUSES describes the exit statuses. Ctrl-C is status 130, without a traceback."""
    if sys.argv[1:2] in (
        ["serve"],
        ["open"],
    ):  # signals are received from here on, as `python -m manifold.service` does
        from manifold.service.processes import early

        early.prepare()
    interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell makes a background job ignore it
        signal.signal(signal.SIGINT, interrupt)
    try:
        _run()
    except KeyboardInterrupt:
        _end_interrupted()
    except SystemExit as ended:  # the parser of arguments ends the process with this status
        if interrupted and ended.code == INTERRUPTED:
            _end_interrupted()
        raise
    except Exception:
        if interrupted:  # native modules turn an interrupt during their import into another error
            _end_interrupted()
        raise


def _end_interrupted() -> None:
    """End the process after Ctrl-C."""
    typer.echo("interrupted", err=True)
    sys.exit(INTERRUPTED)


def _run() -> None:
    try:
        app()
    except ManifoldError as error:
        typer.echo(_message(error), err=True)
        sys.exit(WRONG if MISUSE in getattr(error, "__notes__", ()) else STATUS_OF.get(error.type, 1))
    except ModuleNotFoundError as error:
        typer.echo(_lacking(str(error.name), sys.argv[1:2]), err=True)
        sys.exit(1)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `manifold schema | head`
            os._exit(0)
        advice = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
        typer.echo(f"{error.filename or ''}: {error.strerror or error}{advice}".lstrip(": "), err=True)
        sys.exit(1)


def _lacking(module: str, arguments: list[str]) -> str:
    """Return what to do about a module that is not installed: the extra that the command needs, if the module belongs to it."""
    needed = NEEDS.get(arguments[0], ()) if arguments else ()
    for extra in needed:
        if extra in extras.extras_with(module, extras.requirements()):
            return f"manifold {arguments[0]} needs the extra {extra}, but {module} is not installed; install the extra with: {extras.command(extra)}"
    return extras.advice(module, needed)


def _message(error: ManifoldError) -> str:
    """Return the error's message, and the valid values if the message does not list them."""
    if not error.valid or str(error.valid[0]) in error.message:
        return error.message
    return f"{error.message}\nvalid: {', '.join(map(str, error.valid))}"
