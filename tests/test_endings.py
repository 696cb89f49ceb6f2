"""Commands during another command, on a full disk, on a cut file or with a signal: they end cleanly and leave no partial results."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import imaging, locks, manifest, recipes, repository
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import ArtifactError, InvalidValue, ManifoldError
from manifold.runtime.manifest import Manifest
from manifold.service import keyfile, security
from manifold.training import runs
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.loop import checkpoints
from manifold.training.train import train, trained_model
from tests import foreign
from tests.conftest import ROOT, SHIPPED
from tests.served import until
from tests.test_train import make_run

# --- publishing ---


def staged(folder: Path, version: int) -> Manifest:
    """Write an artifact into a staging folder."""
    foreign.generator(folder / "generator.onnx")
    (folder / manifest.FILE).write_text(json.dumps(foreign.manifest(version=version)))
    return manifest.read(folder)


def test_exports_of_one_name_at_once_take_versions_of_their_own(tmp_path: Path) -> None:
    published: list[str] = []
    both = threading.Barrier(4)

    def export() -> None:
        with repository.staging(tmp_path, "foreign") as folder:
            made = staged(folder, repository.next_version(tmp_path, "foreign"))
            both.wait(60)  # now all have chosen version 1
            published.append(repository.publish_next(folder, tmp_path, made).name)

    threads = [threading.Thread(target=export) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(published) == ["1", "2", "3", "4"]
    assert sorted(os.listdir(tmp_path / "foreign")) == ["1", "2", "3", "4"]
    for version in range(1, 5):
        assert load(tmp_path / "foreign" / str(version), device="cpu").manifest.version == version


def test_publishing_says_what_the_system_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))

    with repository.staging(tmp_path, "foreign") as folder:
        made = staged(folder, 1)
        monkeypatch.setattr(Path, "rename", full)
        with pytest.raises(OSError, match="Read-only file system"):
            repository.publish_next(folder, tmp_path, made)
    assert os.listdir(tmp_path) == []


HOLDS = """
import sys, time
from pathlib import Path
from manifold.runtime import repository
with repository.staging(Path(sys.argv[1]), "left") as folder:
    (folder / "half").write_text("half")
    print(folder, flush=True)
    time.sleep(600)
"""


@contextmanager
def holding(root: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start another process, and stop it in the middle of an export."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            yield other, Path(other.stdout.readline().strip())
        finally:
            other.kill()


def test_staging_folders_of_killed_commands_are_removed_and_live_ones_are_not(tmp_path: Path) -> None:
    with holding(tmp_path) as (other, folder):
        with repository.staging(tmp_path, "mine"):
            assert (folder / "half").exists()
        other.kill()
        other.wait(60)
        assert (folder / "half").exists()
        with repository.staging(tmp_path, "mine"):
            assert not folder.parent.exists()
    assert os.listdir(tmp_path) == []


def test_a_folder_is_locked_once(tmp_path: Path) -> None:
    with locks.held(tmp_path) as first:
        assert first is True
        with locks.held(tmp_path) as second:
            assert second is False
    with locks.held(tmp_path) as third:
        assert third is True


def test_without_locks_only_old_staging_folders_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_try", lambda descriptor: None)
    new, old = (tmp_path / name / ".staging-x" for name in ("new", "old"))
    for folder in (new, old):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    with repository.staging(tmp_path, "mine"):
        assert (new.exists(), old.exists()) == (True, False)


# --- runs ---


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", epochs=1)
    train(run, digits, device="cpu", quiet=True, stop_after=3)
    before = run.checkpoint.read_bytes()
    size = len(before)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
        with pytest.raises(
            TrainingError,
            match=r"File too large; training stopped at step 5; the last good checkpoint is .*`manifold resume",
        ):
            train(run, digits, resume=True, device="cpu", quiet=True, stop_after=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert run.checkpoint.read_bytes() == before
    assert [name for name in os.listdir(run.folder) if name.startswith(".")] == []
    train(run, digits, resume=True, device="cpu", quiet=True, stop_after=1)
    assert checkpoints.load(run.checkpoint)["position"]["step"] == 4


def test_a_half_written_line_of_the_log_is_dropped(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "manifold.training.loop.sheets.curves", lambda log, path: runs.read_log(log)
    )  # drawing takes seconds
    run = make_run(tmp_path / "run", epochs=2)
    train(run, digits, device="cpu", quiet=True, stop_after=12)
    log = run.folder / runs.LOG
    whole = log.read_text()
    for left in (
        '{"step": 12, "pha',
        '{"step": 12}[',
        "\0\0\0",
        "[1, 2]\n",
        "[" * 100_000,
        '{"no": 1}\n',
        '{"step": "x"}\n',
    ):
        log.write_text(whole + left)
        assert len(runs.read_log(log)) == len(whole.splitlines())
    log.write_bytes(whole.encode() + b'{"step": 12, "caf\xc3')
    train(run, digits, resume=True, device="cpu", quiet=True)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] > 12


def test_two_trainings_of_one_run(tmp_path: Path, digits: Data) -> None:
    run = make_run(tmp_path / "run")
    with run.sole(), pytest.raises(TrainingError, match="another process is training this run"):
        train(run, digits, device="cpu", quiet=True)
    left = run.folder / f".{runs.CHECKPOINT}.123"
    left.write_text("of a killed process")
    with run.sole():
        assert not left.exists()


GOOD = {"family": "vae", "data": "digits", "preset": "smoke", "config": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"\[\] is not an object with the keys family, data, preset, config"),
        ("3", "3 is not an object"),
        ("null", "None is not an object"),
        ('"x"', "is not an object"),
        ("{}", "family: is missing"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ({**GOOD, "family": 3}, "family: 3 is not a text"),
        ({**GOOD, "family": ["vae"]}, "is not a text"),
        ({**GOOD, "family": "gan9"}, "unknown family 'gan9'.*restore the file that `manifold train` wrote"),
        ({**GOOD, "data": None}, "data: None is not a text"),
        ({**GOOD, "config": []}, r"config: \[\] is not an object"),
        ({**GOOD, "config": {"epochs": "x" * 10_000}}, r"epochs: 'xxx"),
        (
            {**GOOD, "config": {"a new key": 1}},
            "a new key: unknown option.*restore the file that `manifold train` wrote",
        ),
        ({**GOOD, "config": {"batch_size": -1}}, "batch_size: -1 must be at least 1"),
    ],
)
def test_a_config_of_another_shape_is_one_clear_line(content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / runs.CONFIG).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(TrainingError, match=message) as caught:
        runs.open_run(tmp_path)
    assert len(caught.value.message) < 2000 and "\n" not in caught.value.message


def test_other_files_that_cannot_be_read(tmp_path: Path, digits: Data) -> None:
    (tmp_path / runs.CONFIG).write_bytes(b"\xff\xfe")
    with pytest.raises(TrainingError, match="is not JSON"):
        runs.open_run(tmp_path)
    run = make_run(tmp_path / "run", epochs=1)
    train(run, digits, device="cpu", quiet=True, stop_after=1)
    other = make_run(run.folder, latent_dim=7)
    with pytest.raises(TrainingError, match="does not fit"):
        train(other, digits, resume=True, device="cpu", quiet=True)
    with pytest.raises(TrainingError, match="does not fit"):
        trained_model(other, digits)  # as an export does
    with pytest.raises(TrainingError, match="does not fit into memory"):
        trained_model(make_run(run.folder, latent_dim=2**60), digits)
    checkpoints.save(run.checkpoint, {"position": {"nothing": 1}})
    with pytest.raises(TrainingError, match="does not fit"):
        train(run, digits, resume=True, device="cpu", quiet=True)


# --- keys ---


def test_a_new_file_of_keys_can_be_read_by_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert keyfile.add(tmp_path / "keys", security.create("a", ["infer"])[1]) == 0o644
    finally:
        os.umask(before)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o644


def test_an_existing_file_of_keys_keeps_mode_owner_and_link(tmp_path: Path) -> None:
    file, link = tmp_path / "keys", tmp_path / "link"
    file.write_text("# mine")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 10001, 10001)
    link.symlink_to(file)
    done = CliRunner().invoke(cli.app, ["key", "a", "--file", str(link)])
    assert "has the mode 640" in done.stderr and "chmod 644" in done.stderr
    status = file.stat()
    assert (status.st_mode & 0o777, link.is_symlink()) == (0o640, True)
    assert os.geteuid() != 0 or (status.st_uid, status.st_gid) == (10001, 10001)
    assert file.read_text().startswith("# mine\na:infer:")


def test_keys_that_are_made_at_once_are_all_kept(tmp_path: Path) -> None:
    """Threads lock as processes do here, because the locks belong to open files."""
    made = [security.create(f"key{number}", ["infer"])[1] for number in range(8)]
    threads = [threading.Thread(target=keyfile.add, args=(tmp_path / "keys", each)) for each in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {key.name for key in security.parse((tmp_path / "keys").read_text())} == {key.name for key in made}


def test_no_token_is_printed_whose_entry_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xff")
    for file in (tmp_path / "keys", tmp_path, tmp_path / "no/keys"):
        done = CliRunner().invoke(cli.app, ["key", "a", "--file", str(file)])
        assert (done.exit_code, done.stdout) == (1, ""), file


# --- recipes ---


@pytest.fixture(scope="module")
def model() -> Model:
    return load(SHIPPED / "mnist-vqvae", device="cpu")


@pytest.fixture(scope="module")
def good(model: Model) -> dict[str, Any]:
    samples = model.sample(4, seed=3)
    return imaging.grid_recipe(recipes.for_samples(model.manifest, model.checksum, samples, {"first": 0}))


DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]


def wrong(key: str, *values: Any) -> list[dict[str, Any]]:
    return [{key: value} for value in values]


@pytest.mark.parametrize(
    "change",
    [
        *wrong("n", 10**9, 65_537, 0, -1, True, "4", 4.0, None, [4], 10**5000),
        *wrong("item", 2**64, 2**63 - 1, -1, "x", None),
        *wrong("seed", 2**64, -1, "x", True),
        *wrong("temperature", 0, -1, float("nan"), float("inf"), "1", None, 10**400),
        *wrong("version", 0, -1, "1", "../..", None),
        *wrong("model", "../x", "/etc", 5, None),
        *wrong("class", 55, ["1"] * 3, "nope", [None] * 4, [True] * 4, {}, DEEP),
        *wrong("latents", 5, [], [[0.0] * 100_000] * 4, DEEP),
        *wrong("codes", 5, [], [[0]] * 4, [[[9999] * 7] * 7] * 4, [[[-1] * 7] * 7] * 4, [[[2**63] * 7] * 7] * 4, [[[0.5] * 7] * 7] * 4, DEEP),
        *wrong("condition", 5, [], ["a"], [[float("nan")] * 10] * 4, DEEP),
    ],
    ids=lambda change: f"{next(iter(change))} {str(next(iter(change.values())))[:12]}" if next(iter(change.values())) != 10**5000 else "n huge",
)  # fmt: skip
def test_a_recipe_that_nobody_could_have_made_costs_nothing(
    change: dict[str, Any], model: Model, good: dict[str, Any]
) -> None:
    recipe = {**good, **change}
    if "codes" in change or "latents" in change:
        recipe = {key: value for key, value in recipe.items() if key not in ("seed", "item")}
    began = time.process_time()
    with pytest.raises(ManifoldError) as caught:
        recipes.remake(model, recipe)
    assert time.process_time() - began < 1
    assert len(caught.value.message) < 400


def test_a_recipe_of_a_picture_that_could_not_be_read_costs_nothing(model: Model, good: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="30000 items have 23520000 pixels"):
        recipes.remake(model, {**good, "n": 30_000})


def test_recipes_that_are_no_recipes(model: Model, good: dict[str, Any]) -> None:
    assert recipes.remake(model, good)
    broken: list[Any] = [None, [], "x", 5]
    for recipe in broken:
        with pytest.raises(InvalidValue, match=r"the recipe is damaged: recipe: .* is not an object"):
            recipes.check(recipe)
    for key in ("checksum", "temperature", "model", "seed"):
        with pytest.raises(InvalidValue, match=f"damaged: {key}"):
            recipes.check({name: value for name, value in good.items() if name != key})


def test_a_recipe_of_no_items_is_damaged(good: dict[str, Any]) -> None:
    assert recipes.check({**good, "n": 1})["n"] == 1
    with pytest.raises(InvalidValue, match=r"damaged: n: 0 is not a number of items, 1 to 65536"):
        recipes.check({**good, "n": 0})


def test_a_recipe_of_given_codes_gives_the_same_picture(model: Model, good: dict[str, Any]) -> None:
    assert model.manifest.codes is not None
    levels, shape = model.manifest.codes.levels, model.manifest.codes.shape
    codes = np.linspace(0, levels - 1, 4 * math.prod(shape)).astype(np.int64).reshape(4, *shape)
    samples = model.sample(4, codes=codes)
    made = recipes.for_samples(model.manifest, model.checksum, samples, {"codes": codes})
    assert recipes.remake(model, imaging.grid_recipe(made)) == model.manifest.spec.sheet(samples.data, made)


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ([[[0] * 7] * 7] * 3 + [[[128] + [0] * 6] + [[0] * 7] * 6], r"codes: one is not from 0 to 127"),
        ([[[0] * 7] * 7] * 3 + [[[-1] + [0] * 6] + [[0] * 7] * 6], r"codes: one is not from 0 to 127"),
        ([[[0] * 7] * 7] * 3, r"codes: the shape is \[3, 7, 7\], not \[4, 7, 7\]"),
        ([[0] * 7] * 4, r"codes: the shape is \[4, 7\], not \[4, 7, 7\]"),
        ([[[0] * 7] * 7] * 3 + [[[0] * 7] * 6], r"setting an array element with a sequence"),
    ],
    ids=["too large", "negative", "too few items", "another shape", "items of different shapes"],
)
def test_the_codes_of_a_damaged_recipe(model: Model, good: dict[str, Any], codes: list[Any], said: str) -> None:
    recipe = {key: value for key, value in good.items() if key not in ("seed", "item")}
    with pytest.raises(InvalidValue, match=f"^the recipe is damaged: {said}"):
        recipes.remake(model, {**recipe, "codes": codes})


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "1" * 5000, "nonsense"])
def test_a_text_that_is_no_recipe(text: str, tmp_path: Path) -> None:
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    about, buffer = PngInfo(), io.BytesIO()
    about.add_text(imaging.RECIPE, text)
    Image.new("L", (3, 3)).save(buffer, "png", pnginfo=about)
    with pytest.raises(InvalidValue, match="damaged"):
        recipes.check(imaging.read_recipe(buffer.getvalue()))


# --- recipes ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "mnist-vae", "-o"], ["evaluate", "mnist-vae", "-o"], ["evaluate", "mnist-vae", "--html"], ["disentangle", "mnist-vae", "-o"],
        ["score", "rows.csv", "--model", "transactions-vae", "-o"], ["compress", "x.png", "--model", "mnist-vqvae", "-o"], ["decompress", "x.mfc", "-o"],
        ["reference", "--extractor", "mnist-classifier", "-o"], ["judge", "transactions-vae", "--html"], ["catalogue", "--page"],
        ["evaluate-images", "a", "--against", "b", "--extractor", "mnist-classifier", "-o"], ["fit", "rows.csv", "--name", "x", "--html"],
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1]}",
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_said_before_the_work(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a.ndjson"
    folder.mkdir()
    monkeypatch.setattr("manifold.runtime.engine.load", lambda *_, **__: pytest.fail("it has begun to work"))
    models = ["--models", str(SHIPPED)]
    done = CliRunner().invoke(cli.app, [*arguments, str(folder), *models])
    assert (done.exit_code, str(done.exception)) == (1, f"{folder}: is a folder; give the path of a file")
    file = tmp_path / "file"
    file.write_text("")
    for out, message in (
        (file / "x.ndjson", "is a file, not a folder; choose another folder"),
        (tmp_path / "locked/x.ndjson", "cannot be written"),
    ):
        (tmp_path / "locked").mkdir(exist_ok=True)
        monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path))
        done = CliRunner().invoke(cli.app, [*arguments, str(out), *models])
        assert done.exit_code == 1 and message in str(done.exception)


@pytest.mark.slow
def test_ctrl_c_is_status_130_and_leaves_no_file(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "manifold.cli",
        "sample",
        "mnist-pixelcnn",
        "-n",
        "4096",
        "--models",
        str(SHIPPED),
        "-o",
        str(tmp_path / "x.png"),
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: "onnxruntime" in Path(f"/proc/{process.pid}/maps").read_text(), 60)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in error, "interrupted" in error) == (130, False, True)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def _plain_ctrl_c() -> Iterator[None]:
    """Restore SIGINT as a program finds it at its start. A command that ran in this process has left its own handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_plain_ctrl_c")
def test_a_library_that_turns_ctrl_c_into_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "mnist-vae", "-n", "1000000000"], ["evaluate", "mnist-vae", "--n", "1000000000"],
        ["sample", "mnist-vae", "--first", str(2**64)], ["sample", "mnist-vae", "--seed", "-1"],
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_errors_of_use(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2


def test_nothing_is_published_over_an_artifact(tmp_path: Path) -> None:
    with repository.staging(tmp_path, "foreign") as folder:
        repository.publish_next(folder, tmp_path, staged(folder, 1))
    with repository.staging(tmp_path, "foreign") as folder, pytest.raises(ArtifactError, match="never overwritten"):
        repository.publish(folder, tmp_path, staged(folder, 1))
