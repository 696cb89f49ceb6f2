"""The command line as a whole: subjects, versions, completion, the list of models, checks before work, statuses, and its page in docs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from manifold import cli
from manifold.cli import completion, reference
from manifold.cli.options import elsewhere
from manifold.runtime import extras, manifest
from manifold.runtime.errors import ManifoldError, command
from manifold.runtime.shipped import latest
from manifold.service import __main__ as service_command
from manifold.service import server
from manifold.service.processes import early
from manifold.service.settings import SettingsError
from manifold.training import export as exporting
from manifold.training import runs
from manifold.training.loop.interrupts import Interrupted
from tests.conftest import ROOT, SHIPPED

COMMANDS = [(cli.name_of(command), example) for subject in cli.SUBJECTS for command, example in subject.commands]
MODELS = ("--models", str(SHIPPED))


def said(*arguments: str, status: int = 0) -> str:
    """Return what a command prints in this process. An error of ours is raised."""
    done = CliRunner().invoke(cli.app, arguments)
    if isinstance(done.exception, ManifoldError):
        raise done.exception
    assert done.exit_code == status, done.output
    return done.output


# --- help -----------------------------------------------------------------------------------------------------------------------------------------------------


def test_the_help_lists_every_command_once_under_its_subject() -> None:
    text = said("--help")
    titles = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert titles == ["Options", *(subject.title for subject in cli.SUBJECTS)]
    names = [name for name, _ in COMMANDS]
    assert re.findall(r"^  ([a-z][a-z-]+)  ", text, re.MULTILINE) == names
    assert len(set(names)) == len(names) == len(cli.app.registered_commands)
    assert "Usage: manifold sample [OPTIONS] MODEL\n" in said("sample", "--help")
    assert "...\n" not in text.partition("\n")[2]  # no summary is cut
    for status, meaning in cli.STATUSES.items():
        assert f"    {status:<4} {meaning}" in text


@pytest.mark.parametrize(("name", "example"), COMMANDS)
def test_the_example_of_each_command_is_legal(name: str, example: str) -> None:
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    with command.make_context(name, shlex.split(example)):
        pass
    assert f"manifold {name} {example}".rstrip() in said(name, "--help")


def test_the_number_of_items_has_two_spellings_in_every_command() -> None:
    found = {
        name: parameter.opts
        for name, command in typer.main.get_group(cli.app).commands.items()
        for parameter in command.params
        if {"-n", "--n"} & set(parameter.opts)
    }
    assert {"sample", "evaluate", "compare"} <= set(found)
    assert all(spellings == ["-n", "--n"] for spellings in found.values())


def test_the_page_of_the_commands_is_made_from_them() -> None:
    assert (ROOT / "docs/reference/commands.md").read_text() == reference.page(), "run `make docs`"


def test_versions_are_printed_without_importing_the_libraries() -> None:
    lines = said("--version").splitlines()
    assert [line.split()[0] for line in lines] == ["manifold", "onnxruntime", "torch"]
    assert lines[2] == f"torch {metadata.version('torch')}"
    code = "import sys; from manifold.runtime import extras; extras.versions(); print({'torch', 'onnxruntime', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_names_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    context = typer.main.get_command(cli.app).commands["sample"].make_context("sample", [*MODELS, "mnist-vae"])  # type: ignore[attr-defined]
    assert completion.model_names(context, "mnist-vae-") == ["mnist-vae-2d", "mnist-vae-ts"]
    assert completion.data_names("mnist") == ["mnist", "mnist-14"]
    assert completion.family_names("tab") == ["tabular_cvae", "tabular_detector", "tabular_vae"]
    assert completion.devices("c") == ["cpu", "cuda"]
    assert completion.presets("") == ["cpu", "gpu", "smoke"]
    monkeypatch.chdir(ROOT)
    variables = {"_MANIFOLD_COMPLETE": "complete_bash", "COMP_WORDS": "manifold sample frey", "COMP_CWORD": "2"}
    done = CliRunner().invoke(cli.app, [], env=variables, prog_name="manifold")
    assert done.output.split() == ["frey-vae"]


def test_commands_in_messages_name_the_folder_of_the_models_and_are_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(completion.MODELS_VARIABLE, raising=False)
    assert elsewhere(Path("models")) == []
    assert (
        command("judge", "m", *elsewhere(Path("my models")), "--n", 3) == "manifold judge m --models 'my models' --n 3"
    )
    monkeypatch.setenv(completion.MODELS_VARIABLE, "others")
    assert elsewhere(Path("others")) == []
    assert elsewhere(Path("models")) == ["--models", "models"]


def test_export_names_a_command_that_finds_the_model_and_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "my rows.csv"
    monkeypatch.setattr(runs, "open_run", lambda run: SimpleNamespace(data=str(data)))
    monkeypatch.setattr(runs, "read_config", lambda run: {runs.TABLE: {}})
    monkeypatch.setattr(exporting, "export", lambda run, name, models, **options: models / name / "1")
    text = said("export", str(tmp_path), "--name", "mine", "--models", str(tmp_path / "models"))
    advice = text[text.index("manifold judge") :]
    assert shlex.split(advice) == [
        "manifold", "judge", "mine", "--models", str(tmp_path / "models"), "--data", str(data), "--record", "--html", "mine.html",
    ]  # fmt: skip


def test_a_run_folder_that_is_used_is_named_as_a_shell_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "checkpoint.safetensors").touch()
    with pytest.raises(ManifoldError, match=r"`manifold resume '\S+/my run'` continues it"):
        said("train", "vae", "digits", "--out", str(folder))
    fit = ("fit", str(tmp_path / "absent.csv"), "--name", "mine", "--run", str(folder), "--models", str(tmp_path))
    with pytest.raises(ManifoldError) as caught:
        said(*fit)
    assert f"--run '{folder}-2'" in caught.value.message
    assert f"manifold export '{folder}' --name mine --models {tmp_path}" in caught.value.message


# --- models and check -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Return a folder of three models, two of them damaged."""
    for name in ("digits-classifier", "digits-pixelcnn", "frey-vae"):
        shutil.copytree(SHIPPED / name, tmp_path / "models" / name)
    (tmp_path / "models/digits-pixelcnn/2/manifest.json").write_text('{"name": 3}')
    (tmp_path / "models/frey-vae/3/golden.npz").unlink()
    return tmp_path / "models"


def test_models_are_listed_with_the_problems_of_damaged_ones(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manifold.runtime.engine.load", lambda *_, **__: pytest.fail("a graph was opened"))
    lines = said("models", "--models", str(few), status=1).splitlines()
    assert lines[0].split() == ["name", "version", "family", "items", "data", "size", "endpoints"]
    assert lines[1].split() == ["digits-classifier", "1", "classifier", "image", "8x8x1", "digits", "0.1", "MB", "classify"]  # fmt: skip
    assert any(line.startswith("digits-pixelcnn: problem: ") for line in lines)
    assert "frey-vae: problem: golden.npz is missing" in lines
    listed = {each["name"]: each for each in json.loads(said("models", str(few), "--json", status=1))}
    assert listed["digits-classifier"]["problems"] == []
    assert listed["frey-vae"]["problems"] == ["golden.npz is missing"]
    assert listed["frey-vae"]["endpoints"][:2] == ["sample", "encode"]


def test_all_models_of_a_folder_are_checked(few: Path) -> None:
    text = said("check", "--all", "--models", str(few), "--device", "cpu", status=1)
    assert f"{few}/digits-classifier/1: good: features" in text
    assert f"{few}/digits-pixelcnn/2:\n" in text
    assert "golden.npz" in text
    assert "good" in said("check", "digits-classifier", "--models", str(few), "--device", "cpu")
    for arguments in ((), ("--all", "digits-classifier")):
        assert "or use --all for every model in models, not both" in said("check", *arguments, status=2)


# --- checks before any data is touched ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate mnist-classifier", "it makes no images; it supports /classify"),
        ("evaluate transactions-vae", "it makes rows, not images (`manifold judge`"),
        ("evaluate mnist-vae --prior x", "has no prior 'x'"),
        ("evaluate mnist-vae --n 1", "use at least 2 images"),
        ("evaluate mnist-vae --resize x", "valid are none, torch-bilinear"),
        ("evaluate mnist-vae --extractor mnist-gan", "has no task `features`"),
        ("disentangle mnist-gan", "no encoder into a latent space, as a VAE has; it supports /sample"),
        ("disentangle mnist-cgan", "no encoder into a latent space"),
        ("disentangle transactions-vae", "it makes rows, not images"),
        ("fit-priors mnist-gan", "it has no encoder into its latent; it supports /sample"),
        ("fit-priors mnist-pixelcnn", "it has no latent; it supports /sample"),
        ("fit-priors mnist-classifier", "it has no latent; it supports /classify"),
        ("judge mnist-classifier", "has no anomaly score to evaluate; it supports /classify"),
        ("judge mnist-vae --html x.html", "--html: the page shows rows of a table"),
        ("judge transactions-vae --against mnist", "--truth names their known anomalies"),
        ("compare mnist-vae mnist-classifier", "mnist-classifier cannot be evaluated: it makes no images"),
        ("compare mnist-vae fashion-vae mnist-gan", "different data sets (mnist-vae, mnist-gan on mnist; fashion-vae on fashion_mnist)"),
        ("reference --extractor mnist-gan -o x.npz", "has no task `features`"),
        ("reference --extractor mnist-classifier -o x.npz --part x", "valid are test, selection, calibration, train"),
        ("evaluate mnist-vae --part x", "valid are test, selection"),
        ("evaluate-images . --against . --extractor mnist-gan", "has no task `features`"),
        ("compress {x} --model mnist-vae", "compression needs codes and a prior over them, as a VQ-VAE has; it supports /sample"),
        ("calibrate mnist-classifier {x}", "does not support /anomaly-score"),
        ("sample mnist-classifier", "does not support /sample"),
        ("train vae --data mnist --device tpu", "device: unknown 'tpu'; valid are auto, cpu, cuda"),
        ("train vae --data mnist --precision 8", "precision: unknown '8'; valid are 32-true, bf16-mixed"),
        ("train vae --data mnist --set epochs", "--set 'epochs': not of the form KEY=VALUE"),
        ("export . --name x --format pt", "format: unknown 'pt'; valid are onnx, torchscript"),
    ],
)  # fmt: skip
def test_commands_check_the_model_before_they_load_data(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manifold.training.datasets.load", lambda name: pytest.fail(f"{name} was loaded"))
    monkeypatch.chdir(tmp_path)
    given = arguments.format(x="absent.png").split()
    models = () if given[0] == "train" else MODELS
    with pytest.raises(ManifoldError) as caught:
        said(*given, *models)
    assert message in caught.value.message


# --- extras ---------------------------------------------------------------------------------------------------------------------------------------------------


def declared() -> dict[str, list[str]]:
    """Return the requirements of each extra in pyproject.toml."""
    extra: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    return extra


def test_every_optional_module_names_an_extra_that_holds_it() -> None:
    required = [f'{each}; extra == "{extra}"' for extra, requirements in declared().items() for each in requirements]
    modules: dict[str, list[str]] = {}  # top modules of each installed distribution
    for module, distributions in metadata.packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(re.sub(r"[-_.]+", "-", distribution).lower(), []).append(module)
    for extra, requirements in declared().items():
        for requirement in requirements:
            module = extras.module_of(requirement)
            match = extras.REQUIREMENT.match(requirement)
            name = re.sub(r"[-_.]+", "-", match.group()).lower() if match else ""
            assert module in modules.get(name, [module]), f"{requirement}: add it to MODULES"
            assert extra in extras.extras_with(module, required)
            advice = extras.advice(f"{module}.part", required=required)
            assert f"part of the extra {extras.extras_with(module, required)[0]}" in advice


def test_the_advice_is_a_command_for_the_extra_that_the_command_needs() -> None:
    required = [f'{each}; extra == "{extra}"' for extra, requirements in declared().items() for each in requirements]
    assert extras.advice("constriction", required=required) == (
        "constriction is not installed. It is part of the extra compress; install it with: pip install -e '.[cpu,compress]'"
    )
    train = extras.advice("torch", ["train"], required)
    assert "part of the extra train (also in: torch)" in train
    assert train.endswith("pip install -e '.[cpu,train]'")
    assert extras.advice("torch", required=required).endswith("pip install -e '.[cpu,torch]'")
    assert extras.advice("onnxruntime", required=required).endswith("pip install -e '.[cpu]'")
    assert "belongs to no extra of Manifold" in extras.advice("nonsense", required=required)


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("constriction", ["compress", "docs/samples.png", "--model", "mnist-vqvae", "-o", "/dev/null"], "compress"),
        ("scipy", ["evaluate", "mnist-vae"], "evaluate"),
    ],
)
def test_a_missing_module_names_its_extra(
    module: str, arguments: list[str], extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["manifold", *arguments])
    monkeypatch.chdir(ROOT)

    def absent() -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli, "app", absent)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert f"[cpu,{extra}]" in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.NEEDS)
def test_a_command_checks_its_modules_before_its_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = cli.NEEDS[name]
    required = [f'{each}; extra == "{extra}"' for extra, requirements in declared().items() for each in requirements]
    monkeypatch.setattr(extras, "requirements", lambda: required)
    command = typer.main.get_group(cli.app).commands[name]
    monkeypatch.setattr("typer.core.TyperCommand.invoke", lambda *_: pytest.fail("the work began"))
    for module in {extras.module_of(each) for extra in needed for each in declared()[extra]}:
        with monkeypatch.context() as absent:
            absent.setitem(sys.modules, module, None)
            with pytest.raises(ModuleNotFoundError) as caught:
                command.invoke(SimpleNamespace())  # type: ignore[arg-type]
        assert caught.value.name == module
        assert f"manifold {name} needs the extra " in cli._lacking(module, [name])


@pytest.mark.parametrize("arguments", [("check", "--all"), ("check", "mnist-vae"), ("sample", "mnist-vae")])
def test_a_missing_runtime_is_reported_once(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = CliRunner().invoke(cli.app, [*arguments, *MODELS])
    assert isinstance(done.exception, ModuleNotFoundError) and done.exception.name == "onnxruntime"
    assert done.output == ""


# --- statuses -------------------------------------------------------------------------------------------------------------------------------------------------


def statuses(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Return status and stderr of `manifold serve` and of `python -m manifold.service`."""
    found = []
    for name, main in (("manifold serve", cli.main), ("manifold.service", lambda: sys.exit(service_command.main()))):
        monkeypatch.setattr(sys, "argv", [*name.split(), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        found.append((ended.value.code, capfd.readouterr().err))
    return found


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PORT": "99999"}, "port"),
        ({"NONSENSE": "1"}, "there is no such setting"),
        ({"MODELS_DIR": "nowhere"}, "the folder does not exist"),
        ({"MODELS_DIR": "."}, "contains no models"),
        ({"DEFAULT_MODEL": "nonsense"}, "there is no model 'nonsense'"),
        ({"KEYS_FILE": "nowhere"}, "keys_file"),
        ({"PORT": "TAKEN"}, "port"),
        ({"PORT": "0", "GRPC_PORT": "TAKEN"}, "grpc_port"),
    ],
)
def test_both_commands_that_serve_end_alike(
    variables: dict[str, str], message: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(early, "prepare", lambda: None)
    monkeypatch.setattr("manifold.service.telemetry.logs.start", lambda style: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANIFOLD_MODELS_DIR", str(SHIPPED))
    monkeypatch.setenv("MANIFOLD_LOG_FORMAT", form)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for name, value in variables.items():
            monkeypatch.setenv(f"MANIFOLD_{name}", value.replace("TAKEN", str(taken.getsockname()[1])))
        (code, text), (other_code, other) = statuses([], monkeypatch, capfd)
    assert code == other_code == server.WRONG == 2
    assert message in text
    if form == "json":
        assert json.loads(text)["event"] == json.loads(other)["event"]
    else:
        assert text == other


def test_a_server_that_does_not_start_is_status_3_of_both(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(early, "prepare", lambda: None)
    monkeypatch.setattr("manifold.service.telemetry.logs.start", lambda style: None)
    for status in (0, server.NOT_STARTED):
        monkeypatch.setattr(server, "_serve", lambda settings, status=status: status)
        assert [code for code, _ in statuses([], monkeypatch, capfd)] == [status, status]
    assert [code for code, _ in statuses(["--nonsense"], monkeypatch, capfd)] == [2, 2]


def test_the_service_prints_its_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("-h", "--help"):
        monkeypatch.setattr(sys, "argv", ["manifold.service", option])
        assert service_command.main() == 0
        assert "Usage: python -m manifold.service [--check]" in capsys.readouterr().out


# --- files that commands leave --------------------------------------------------------------------------------------------------------------------------------


def test_git_ignores_what_the_documented_commands_leave_behind() -> None:
    made = (
        "digit.png", "mnist-vae.png", "mnist-vae.remade.png", "digits.mfc", "report.html", "my-payments.html", "scores.parquet", "scores.ndjson",
        "scores.rejected.ndjson", "transactions-vae.csv", "reference.npz", "reference.npz.json", "report.json", "models/my-digits/1/manifest.json",
        "runs/my-digits/config.json", "docs/site/index.html", "models.md", ".env", "manifold.toml", "keys",
    )  # fmt: skip
    done = subprocess.run(["git", "check-ignore", *made], cwd=ROOT, capture_output=True, text=True, check=False)
    assert sorted(made) == sorted(done.stdout.split())
    tracked = subprocess.run(["git", "ls-files", "-i", "-c", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
    assert tracked.stdout == ""


def test_the_manifests_of_the_shipped_models_are_listed() -> None:
    listed = {each["name"]: each for each in json.loads(said("models", *MODELS, "--json"))}
    assert set(listed) >= latest(SHIPPED).keys()
    for name, folder in latest(SHIPPED).items():
        assert listed[name]["problems"] == []
        assert listed[name]["tasks"] == list(manifest.read(folder).tasks)


@pytest.mark.parametrize(
    ("error", "status"), [(Interrupted("stopped"), 130), (SettingsError("wrong"), 2), (ManifoldError("no"), 1)]
)
def test_the_status_of_an_error_depends_on_its_type(
    error: ManifoldError, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "argv", ["manifold", "train"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == status
    assert capsys.readouterr().err == f"{error.message}\n"
