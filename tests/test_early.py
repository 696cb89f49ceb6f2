"""Wrong arguments: they are refused in plain words before torch, scipy or ONNX Runtime is imported, with documented exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from manifold import cli
from manifold.cli import completion, early, reference, service
from manifold.evaluation import resize
from manifold.runtime import lineage
from manifold.runtime.errors import InvalidValue
from manifold.runtime.graphs import backends
from manifold.service.core import use_cases
from manifold.service.settings import Settings
from manifold.training.errors import DataError
from tests.conftest import ROOT, SHIPPED

PYDANTIC = ("Input should", "unable to parse", "greater than or equal", "less than or equal", "validation error")
COMMANDS = typer.main.get_group(cli.app).commands


def bounded() -> Iterator[tuple[str, str, str]]:
    """Yield wrong values of every option with a number: command, option, value."""
    for function, _ in (each for subject in cli.SUBJECTS for each in subject.commands):
        name = cli.name_of(function)
        hints = typing.get_type_hints(function, include_extras=True)
        for parameter in COMMANDS[name].params:
            kind, info = typing.get_args(hints[str(parameter.name)])
            if reference._plain(kind) not in (int, float):
                continue
            yield name, parameter.opts[-1], "x"
            if info.min is not None:
                yield name, parameter.opts[-1], str(info.min - 1)
            if info.max is not None:
                yield name, parameter.opts[-1], str(info.max + 1)


def test_wrong_numbers_of_all_options_are_refused_in_plain_words() -> None:
    found = list(bounded())
    assert len(found) > 25
    for name, option, value in found:
        done = CliRunner().invoke(cli.app, [name, option, value, *["a"] * 2])
        assert done.exit_code == 2, (name, option, value, done.output)
        assert not any(text in done.output for text in PYDANTIC), done.output
        if "Invalid value" in done.output:
            assert (
                "is needed, not 'x'" in done.output
                or "is too small; use" in done.output
                or "is too large; use" in done.output
            )


def test_the_bounds_of_serve_are_those_of_the_settings() -> None:
    hints = typing.get_type_hints(service.serve, include_extras=True)
    for name in ("port", "grpc_port", "workers"):
        info = typing.get_args(hints[name])[1]
        bounds = {type(each).__name__: each for each in Settings.model_fields[name].metadata}
        assert (info.min, info.max) == (bounds["Ge"].ge, bounds["Le"].le), name


WRONG = [  # arguments, a part of the message, the status
    ("train vea --data digits", "family: unknown family 'vea' (did you mean 'vae'?)", 2),
    ("train vae --data mnits", "data: unknown data set 'mnits' (did you mean 'mnist'?)", 2),
    ("train vae --data digits --preset fast", "preset: unknown 'fast'", 2),
    ("train vae --data digits --set epoch=1", "epoch: unknown option (did you mean 'epochs'?)", 2),
    ("train vae --data digits --device tpu", "device: unknown 'tpu'", 2),
    ("train vae --data rows.parquet", "rows.parquet: No such file or directory; check the path", 1),
    ("train vae --data digits --out {run}", "holds a run already", 1),
    ("train cgan --data frey_face", "'frey_face' has no classes", 2),
    ("train tabular_vae --data mnist", "'mnist' has images", 2),
    ("train vae", "Invalid value for DATA: give one data set", 2),
    ("train", "Missing argument 'FAMILY'", 2),
    ("fit {table} --name x --truth lable!=normal", "truth: there is no column 'lable' (did you mean 'label'?)", 2),
    ("fit {table} --name x --id orderid", "--id: there is no column 'orderid' (did you mean 'order_id'?)", 2),
    ("fit {table} --name x --keep nope", "--keep: there is no column 'nope'", 2),
    ("fit {table} --name x --label kind", "--label: there is no column 'kind'", 2),
    ("fit {table} --name x --column huor=numeric", "--column: there is no column 'huor' (did you mean 'hour'?)", 2),
    ("fit {table} --name x --column hour=numerical", "unknown kind 'numerical'", 2),
    ("fit {table} --name My/Payments", "name: 'My/Payments' is not valid", 2),
    ("fit {table} --name x --run {sheet}", "sheet.xlsx: is a file, not a folder; choose another folder", 1),
    ("fit {table} --name x --models {sheet}", "sheet.xlsx: is a file, not a folder; choose another folder", 1),
    ("fit {table} --name x --html {sheet}/x.html", "sheet.xlsx: is a file, not a folder", 1),
    ("train vae --data digits --out {sheet}", "sheet.xlsx: is a file, not a folder; choose another folder", 1),
    ("train vae --data digits --out {sheet}/x", "sheet.xlsx: is a file, not a folder; choose another folder", 1),
    ("models --models {run}", "run: contains no models; give the folder of models with --models", 1),
    ("models {run} --json", "run: contains no models", 1),
    ("check --all --models {run}", "run: contains no models", 1),
    ("catalogue --page x.md --models {run}", "run: contains no models", 1),
    ("fit {table} --name mnist-vae", "mnist-vae holds a shipped model of images of 28x28x1 (family vae)", 2),
    ("fit {table} --name transactions-vae", "is a shipped model of the data set transactions", 2),
    ("fit {table} --name nslkdd-cvae", "choose another name, such as my-nslkdd-cvae", 2),
    ("fit {table} --name x --run {run}", "holds a run already", 1),
    ("fit {table} --name mnist-vae --run {run}", "choose another name, such as my-mnist-vae", 2),
    ("fit {table}s --name x", "(did you mean 'payments.csv'?); check the path", 1),
    ("judge mnist-vae --against nosuch", "--against: unknown data set 'nosuch'", 2),
    ("fit-priors mnist-vae --data creditcard", "data: 'creditcard' has rows, but images are needed", 2),
    ("evaluate mnist-vae --data creditcard", "data: 'creditcard' has rows", 2),
    ("score new.xlsx --model mnist-vae -o x.csv", "new.xlsx: No such file or directory", 1),
    ("score {sheet} --model mnist-vae -o x.csv", "save the table as a .csv or .parquet file", 1),
    ("reference --extractor mnist-classifier", "Invalid value for --out: give either", 2),
    ("remake nowhere.png", "nowhere.png: No such file or directory; check the path", 1),
    ("sample mnist-vae --temperature nan", "a finite number is needed, not 'nan'", 2),
    ("sample mnist-vae --temperature inf", "a finite number is needed, not 'inf'", 2),
    ("key name --rate nan", "a finite number is needed, not 'nan'", 2),
    ("key name --rate 1e9", "'1e9' is too large; use 999999 or less", 2),
    ("nosuch", "No such command 'nosuch'", 2),
    ("sample mnist-vae -n 0", "'0' is too small; use 1 or more", 2),
    ("export {run} --name x --format nosuch", "format: unknown 'nosuch'", 2),
    ("sample nosuch", "there is no such folder", 2),
    ("sample mnist-classifier", "does not support /sample", 2),
    ("compare nosuch", "there is no such folder", 2),
    ("fit {table} --name x --column hour", "not of the form NAME=VALUE", 2),
    ("ask nosuch", "there is no 'nosuch'", 2),
    ("resume {table}", "it is not a run", 1),
    ("sample mnist-vae -o x.bmp", "images are written as .png", 1),
    ("sample mnist-vae --models nosuch", "nosuch: there is no such folder in the working folder /", 2),
    (
        "sample mnist-vae --models /nosuch",
        "/nosuch: there is no such folder; give the folder of models with --models",
        2,
    ),
    ("sample {run}/x --models nosuch", "run/x: there is no such folder; an artifact is a folder", 2),
    ("fit nosuch/sheet.csv --name x", "nosuch/sheet.csv: there is no folder nosuch in the working folder /", 1),
]


LATER = [  # these are found with torch or scipy, or in the working folder of the test
    (
        "fit {table} --name my-run",
        "my-run: this folder holds a run already; to train in another folder, use --run runs/my-run-2",
        1,
    ),
    (
        "fit {table} --name my-new --models {models}",
        "my-new was fitted before (its run is in runs/my-new). For a new version: add --run runs/my-new-3",
        1,
    ),
    ("resume runs/my-rum", "runs/my-rum: there is no such folder; did you mean runs/my-run?", 1),
    ("export my-run --name x", "my-run: there is no such folder; did you mean runs/my-run?", 1),
    ("export nosuch/a --name x", "nosuch/a: there is no such folder; create a run", 1),
    ("evaluate mnist-vae --prior nosuch", "has no prior 'nosuch'", 2),
    ("train vae --data digits --set batch_size=0", "batch_size: 0 must be at least 1", 2),
    ("train vae --data digits --set schedule=nosuch", "schedule: unknown value 'nosuch'", 2),
]


@pytest.mark.parametrize(("arguments", "message", "status"), [*WRONG, *LATER])
def test_wrong_arguments_are_refused_before_data_is_touched(
    arguments: str,
    message: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def touched(*_: Any, **__: Any) -> None:
        raise DataError("data were read")

    monkeypatch.setattr("manifold.training.datasets.load", touched)
    monkeypatch.setenv("MANIFOLD_MODELS_DIR", str(SHIPPED))
    monkeypatch.chdir(tmp_path)
    given = arguments.format(**made(tmp_path)).split()
    monkeypatch.setattr(sys, "argv", ["manifold", *given])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capfd.readouterr().err
    assert message in said
    assert ended.value.code == status


def made(folder: Path) -> dict[str, Path]:
    """Return a run that began, a spreadsheet, and the example table."""
    (folder / "run").mkdir()
    (folder / "run/checkpoint.safetensors").touch()
    for name in ("runs/my-run", "runs/my-new", "runs/my-new-2", "own/my-new"):
        (folder / name).mkdir(parents=True)
        for file in ("checkpoint.safetensors", "config.json"):
            (folder / name / file).touch()
    (folder / "sheet.xlsx").touch()
    return {
        "run": folder / "run",
        "models": folder / "own",
        "sheet": folder / "sheet.xlsx",
        "table": ROOT / "examples/payments.csv",
    }


def test_the_checks_of_train_and_fit_import_nothing_that_takes_seconds(tmp_path: Path) -> None:
    code = """
import sys
from manifold import cli
for arguments in map(str.split, sys.argv[1:]):
    sys.argv = ["manifold", *arguments]
    try:
        cli.main()
    except SystemExit as ended:
        assert ended.code, arguments
print({"torch", "scipy", "onnxruntime", "sklearn"} & set(sys.modules))
"""
    files = made(tmp_path)
    given = [
        arguments.format(**files)
        for arguments, _, _ in WRONG
        if arguments.startswith(("train", "fit ", "judge", "evaluate"))
    ]
    environment = {**os.environ, "MANIFOLD_MODELS_DIR": str(SHIPPED)}
    done = subprocess.run(
        [sys.executable, "-c", code, *given], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_the_process_of_a_command_ends_with_its_status_and_all_of_its_output() -> None:
    """`python -m manifold.cli` does not wait for the interpreter to free what libraries hold."""
    done = subprocess.run(
        [sys.executable, "-m", "manifold.cli", "schema"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("}\n")
    code = "import atexit, sys; from manifold import cli; atexit.register(print, 'exit handlers ran'); sys.argv = ['manifold', 'nosuch']; cli.command()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "exit handlers ran\n")


def test_priors_versions_and_choices_are_completed() -> None:
    context: Any = COMMANDS["sample"].make_context("sample", ["mnist-vae", "--models", str(SHIPPED)])
    assert completion.prior_names(context, "") == ["gaussian", "mixture", "normal"]
    assert completion.compared_names(context, "mnist-vae:m") == ["mnist-vae:mixture"]
    assert completion.compared_names(context, "no-such-model:") == []
    assert all(name.startswith("mnist-vae/") for name in completion.artifact_names(context, "mnist-vae/"))
    assert completion.artifact_names(context, "mnist-vae/")
    assert completion.formats("t") == ["torchscript"]
    assert completion.endpoints("") == sorted(use_cases.every)
    assert completion.scopes("") == ["admin", "infer"]
    assert completion.resizes("") == sorted(resize.MODES)
    assert early.DEVICES == backends.DEVICES
    assert "bf16-mixed" in completion.precisions("bf")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("ask an", ["anomaly-score"]),
        ("sample mnist-vae --prior ", ["gaussian", "mixture", "normal"]),
        ("sample mnist-vae --prior m", ["mixture"]),
        ("sample fashion-cgan --class d", ["dress"]),
        ("sample mnist-vae --class ", []),
        ("sample no-such-model --class ", []),
        ("train vae --set lat", ["latent_dim="]),
        ("train nosuch --set lat", []),
        ("fit rows.csv --set tri", ["trim="]),
        ("check mnist-vae/", ["mnist-vae/3"]),
    ],
)
def test_values_are_completed_as_bash_asks_for_them(
    typed: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANIFOLD_MODELS_DIR", str(SHIPPED))
    words = f"manifold {typed}"
    variables = {"_MANIFOLD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = CliRunner().invoke(cli.app, [], env=variables, prog_name="manifold")
    assert done.output.split() == expected


def test_every_option_with_known_values_completes_them() -> None:
    """Options for choices that a program can list have a completion."""
    named = {
        "device",
        "preset",
        "prior",
        "format_",
        "precision",
        "resize",
        "scopes",
        "model",
        "models_",
        "extractor",
        "class_",
        "settings",
        "endpoint",
    }
    for function, _ in (each for subject in cli.SUBJECTS for each in subject.commands):
        for name, hint in typing.get_type_hints(function, include_extras=True).items():
            if name in named:
                assert typing.get_args(hint)[1].autocompletion is not None, (function.__name__, name)


@pytest.mark.parametrize(
    ("chosen", "label", "settings", "before", "family", "reason"),
    [
        ("auto", None, [], None, "tabular_detector", "in seconds"),
        ("auto", None, ["trim=0.05"], None, "tabular_detector", "in seconds"),
        ("auto", None, ["trim=0.05", "latent_dim=3"], None, "tabular_vae", "latent_dim is an option of tabular_vae"),
        ("auto", None, ["epochs=3"], None, "tabular_vae", "epochs is an option"),
        ("auto", None, ["score=fisher:kl,mixture"], None, "tabular_vae", "score names kl, which"),
        ("auto", None, ["score=fisher:tails,mixture"], None, "tabular_detector", "in seconds"),
        ("auto", None, ["score=auto"], None, "tabular_detector", "in seconds"),
        ("auto", None, ["score=mixture"], None, "tabular_detector", "in seconds"),
        ("auto", None, [], "transactions-vae", "tabular_vae", "can sample and encode"),
        ("auto", None, [], "nslkdd-cvae", "tabular_vae", "can sample and encode"),
        ("auto", None, ["weigh=false"], "transactions-vae", "tabular_detector", "weigh is an option"),
        ("auto", "kind", [], None, "tabular_cvae", "classify"),
        ("tabular_vae", "kind", [], None, "tabular_cvae", "classify"),
        ("tabular_vae", None, [], None, "tabular_vae", "as requested"),
        ("tabular_detector", None, [], "transactions-vae", "tabular_detector", "as requested"),
    ],
)
def test_fit_chooses_a_detector_and_says_why(
    chosen: str, label: str | None, settings: list[str], before: str | None, family: str, reason: str
) -> None:
    held = None if before is None else lineage.latest(SHIPPED / before)
    made, why = early.detector(chosen, label, settings, held)
    assert made == family
    assert reason in why


def test_a_detector_that_cannot_classify_is_refused_with_a_label() -> None:
    with pytest.raises(InvalidValue, match="remove one of both"):
        early.detector("tabular_detector", "kind", [], None)
    with pytest.raises(InvalidValue, match="valid are auto, tabular_detector, tabular_vae"):
        early.detector("forest", None, [], None)
    with pytest.raises(InvalidValue, match=r"unknown term 'mixtur'.*'mixture'.*those of tabular_vae reconstruction"):
        early.detector("auto", None, ["score=fisher:mixtur,kl"], None)
