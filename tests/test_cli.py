"""The command line: help, errors, and commands on artifacts without a service."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import imaging
from tests.conftest import ROOT, SHIPPED


def run(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in another process."""
    done = subprocess.run(
        [sys.executable, "-m", "manifold.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode == 0) == ok, done.stderr
    assert "Traceback" not in done.stderr
    return done


def here(*arguments: str) -> str:
    """Return the output of a command that runs in this process. A new process that imports torch takes seconds to start."""
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    text = run("--help").stdout
    for command in ("train", "resume", "export", "sample", "remake", "check", "schema", "serve"):
        assert f"  {command} " in text
    code = "import sys, manifold.cli; print([m for m in ('numpy', 'torch', 'onnxruntime', 'fastapi', 'pydantic') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize("given", ["5", '{"3": 1, "8": 1}', '["1", "2", "3", "4", "5", "6"]'])
def test_sheets_and_remakes_are_the_same_bytes(given: str, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    runner = CliRunner()
    arguments = [
        "sample",
        "digits-pixelcnn",
        "-n",
        "6",
        "--seed",
        "3",
        "--class",
        given,
        "-o",
        str(picture),
        "--models",
        str(SHIPPED),
    ]
    assert runner.invoke(cli.app, arguments).exit_code == 0
    with Image.open(picture) as image:
        assert image.size == (28, 18)
    made = runner.invoke(cli.app, ["remake", str(picture), "--models", str(SHIPPED)])
    assert "the same bytes" in made.output
    assert (tmp_path / "a.remade.png").read_bytes() == picture.read_bytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{"3": 1', "class: the text is not JSON"),
        ('{"3": -1}', "class: the weights"),
        ("{}", "class: the weights {} are not valid"),
    ],
)
def test_wrong_weights_of_classes_are_refused(given: str, said: str, tmp_path: Path) -> None:
    arguments = ["sample", "digits-pixelcnn", "--class", given, "-o", str(tmp_path / "a.png"), "--models", str(SHIPPED)]
    found = CliRunner().invoke(cli.app, arguments)
    assert found.exit_code != 0
    assert said in str(found.exception) + found.output
    assert not list(tmp_path.iterdir())


def test_a_sheet_may_go_to_a_pipe_and_through_a_link(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link.png"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "target.png")
    descriptor = os.open(pipe, os.O_RDWR)  # the grid of images fits into the pipe's buffer
    arguments = ["sample", "mnist-autoencoder", "-n", "1", "--models", str(SHIPPED), "-o"]
    for out in (pipe, link):
        done = CliRunner().invoke(cli.app, [*arguments, str(out)])
        assert done.exit_code == 0, done.output
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert os.read(descriptor, 65536) == (tmp_path / "target.png").read_bytes()
    os.close(descriptor)


def test_a_sheet_of_rows_is_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    assert (
        CliRunner().invoke(cli.app, ["sample", str(SHIPPED / "transactions-vae"), "-n", "5", "-o", str(path)]).exit_code
        == 0
    )
    with path.open() as file:
        assert len(list(csv.DictReader(file))) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "gan9", "--data", "mnist"], "valid are aae, autoregressive, cgan, classifier, cvae, denoising"),
        (["train", "vae", "--data", "mnist", "--preset", "huge"], "valid are smoke, cpu, gpu"),
        (["train", "vae", "--data", "mnist", "--set", "latent=3"], "valid are epochs"),
        (["train", "vae", "--data", "nonsense"], "valid are "),
        (["resume", "nowhere"], "there is no such folder; create a run"),
        (["export", "nowhere", "--name", "x"], "there is no such folder; create a run"),
        (["sample", "nowhere"], "nowhere: there is no such folder"),
        (["sample", "mnist-vea"], "did you mean models/mnist-vae?"),
        (["sample", "mnist-vae/99"], "has no version 99; it has "),
        (["sample", "mnist-vae", "--prior", "x"], "use one of normal, gaussian, mixture"),
        (["remake", "nowhere.png"], "No such file"),
        (["remake", str(ROOT / "README.md")], "README.md: is not a PNG file"),
        (["remake", str(ROOT / "examples/digit.png")], "digit.png: contains no recipe"),
        (["sample", "mnist-vae", "-o", "/nowhere/x.png"], "/nowhere/x.png: No such file"),
        (["serve", "--port", "99999"], "Invalid value for '--port': '99999' is too large; use 65535 or less"),
        (["serve", "--models", "nowhere"], "the folder does not exist"),
    ],
)
def test_errors_are_one_message_and_a_status(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    extra = ["--out", str(tmp_path / "run")] if arguments[0] == "train" else []
    monkeypatch.setattr(sys, "argv", ["manifold", *arguments, *extra])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code not in (0, None)
    assert message in capfd.readouterr().err


def test_an_error_of_a_process_is_one_message_and_a_status() -> None:
    assert "there is no such folder; create a run" in run("export", "nowhere", "--name", "x", ok=False).stderr


def test_training_without_its_extra_names_it() -> None:
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['manifold', 'train', 'vae', '--data', 'digits']; from manifold import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 1
    assert "torch is not installed" in done.stderr
    assert "[cpu,train]" in done.stderr
    assert "Traceback" not in done.stderr


def test_remake_of_a_picture_without_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    Image.new("L", (3, 3)).save(path)
    assert "contains no recipe" in run("remake", str(path), ok=False).stderr


@pytest.mark.slow
def test_train_export_sample_by_command(tmp_path: Path) -> None:
    folder, models = tmp_path / "run", tmp_path / "models"
    settings = ["--set", "epochs=1", "--set", "latent_dim=3"]
    here(
        "train", "vae", "--data", "digits", "--preset", "smoke", *settings, "--out", str(folder), "--device", "cpu", "--quiet"
    )  # fmt: skip
    assert "this run was finished already, so nothing was trained" in here("resume", str(folder), "--device", "cpu")
    told = here(
        "export", str(folder), "--name", "mine", "--format", "torchscript", "--models", str(models)
    ).splitlines()
    assert told[:2] == ["export: load the data and the trained weights", "export: write the graphs"]
    assert told[-1] == str(models / "mine/1")
    assert "good: decode, encode, score" in here("check", str(models / "mine"))
    here("sample", "mine", "-n", "4", "--models", str(models), "-o", str(tmp_path / "s.png"))
    assert imaging.read_recipe((tmp_path / "s.png").read_bytes())["model"] == "mine"
