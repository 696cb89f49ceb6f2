"""The command `manifold`: a table of sub-commands. Each imports what it needs when it is called, so that help is instant."""

from __future__ import annotations

import os
import signal
import sys

import typer

from manifold.cli import artifacts, asking, evaluation, fitting, samples, scoring, service, training
from manifold.runtime.errors import ManifoldError

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it

COMMANDS = (  # in the order of the help
    training.train, training.resume, training.export, fitting.fit, fitting.judge,
    samples.sample, samples.remake, samples.compress, samples.decompress, scoring.score, scoring.calibrate,
    asking.ask, artifacts.check, artifacts.schema,
    evaluation.evaluate, artifacts.catalogue, evaluation.compare, evaluation.evaluate_images, evaluation.reference, training.inception,
    evaluation.disentangle, training.fit_priors,
    service.serve, service.key,
)  # fmt: skip

app = typer.Typer(
    name="manifold", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Trains, exports, serves and judges deep generative models.",
)  # fmt: skip
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)


def main() -> None:
    """Run a command. An error of ours is one message on stderr and exit status 1, of settings 2; Ctrl-C is status 130, without a traceback."""
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
        sys.exit(INTERRUPTED)
    except Exception:
        if interrupted:  # native modules turn an interrupt during their import into another error
            sys.exit(INTERRUPTED)
        raise


def _run() -> None:
    try:
        app()
    except ManifoldError as error:
        typer.echo(_message(error), err=True)
        sys.exit(2 if error.type == "settings_error" else 1)  # as `python -m manifold.service` ends
    except ModuleNotFoundError as error:
        typer.echo(
            f"{error.name} is not installed: training, export and evaluation need an extra: pip install -e '.[cpu,train]', or '.[cpu,evaluate]' without torch",
            err=True,
        )
        sys.exit(1)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `manifold schema | head`
            os._exit(0)
        typer.echo(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), err=True)
        sys.exit(1)


def _message(error: ManifoldError) -> str:
    """Return the error's message, and the valid values where it does not name them."""
    if not error.valid or str(error.valid[0]) in error.message:
        return error.message
    return f"{error.message}\nvalid: {', '.join(map(str, error.valid))}"
