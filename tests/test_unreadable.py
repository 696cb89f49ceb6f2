"""A model that cannot be read is unavailable with its reason, and all others are served: at the start, and while the folder is watched."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from starlette.testclient import TestClient

from manifold.runtime import manifest, repository
from manifold.runtime.engine import load
from manifold.runtime.errors import ArtifactError, UnknownModel
from manifold.service.__main__ import main
from manifold.service.http.app import create_app
from manifold.service.models import page_data
from manifold.service.models.following import Follower
from manifold.service.models.registry import Registry
from manifold.service.server import check, survey
from manifold.service.settings import Settings, SettingsError
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from tests import foreign
from tests.conftest import wait_until_ready
from tests.served import served, until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    foreign.write(tmp_path)
    return tmp_path


def copy(root: Path, name: str = "other") -> Path:
    """Copy the artifact as another model, which could be served."""
    folder = root / name / "1"
    shutil.copytree(root / "foreign/1", folder)
    (folder / manifest.FILE).write_text(json.dumps(foreign.manifest(name=name)))
    return folder


def deny(monkeypatch: pytest.MonkeyPatch, *denied: Path, error: int = errno.EACCES) -> set[Path]:
    """Make listings of these folders fail, as for a user without permission; tests may run as root, who has it. Empty the set to end this."""
    closed, listdir, scandir = set(denied), os.listdir, os.scandir

    def guarded(real: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def look(path: Any = ".") -> Any:
            if Path(path) in closed or Path(path).parent in closed:
                raise OSError(error, os.strerror(error), str(path))
            return real(path)

        return look

    monkeypatch.setattr(os, "listdir", guarded(listdir))
    monkeypatch.setattr(os, "scandir", guarded(scandir))
    return closed


def models(root: Path, **options: Any) -> dict[tuple[str, int], tuple[str, str | None]]:
    """Return states and reasons as in GET /models. The model `foreign` must answer, and every page must be complete."""
    settings = Settings(models_dir=root, default_model="foreign", device="cpu", **options)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        assert client.get("/health/ready").status_code == 200
        assert client.post("/sample", json={"seed": 1}).status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.post("/v2/repository/index").status_code == 200
        found = client.get("/models").json()["models"]
    return {(each["name"], each["version"]): (each["state"], each["reason"]) for each in found}


def hide(root: Path, path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def below(folder: Path) -> Path:
    folder.mkdir()
    return folder / "1"


MISSHAPES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "the manifest is a folder": (lambda root: hide(root, copy(root) / manifest.FILE), 1, "cannot be read: Is a directory"),
    "the manifest is a pipe": (lambda root: pipe(copy(root) / manifest.FILE), 1, "not a regular file"),
    "the manifest is endless": (lambda root: link(copy(root) / manifest.FILE, "/dev/zero"), 1, "not a regular file"),
    "the manifest is huge": (lambda root: os.truncate(copy(root) / manifest.FILE, 2**30), 1, "larger than the limit of 16777216 bytes"),
    "the manifest is no UTF-8": (lambda root: (copy(root) / manifest.FILE).write_bytes(b'{"name": "\xff"}'), 1, "is not valid JSON"),
    "a file of it is a pipe": (lambda root: os.mkfifo(copy(root) / "golden.npz"), 1, "golden.npz: is not a regular file"),
    "the version is a file": (lambda root: below(root / "other").write_text("x"), 1, "is not valid JSON"),
    "the version is a broken link": (lambda root: below(root / "other").symlink_to("/nowhere"), 1, "not found"),
    "the model is a broken link": (lambda root: (root / "other").symlink_to("/nowhere"), 0, "a target that does not exist"),
    "the model is a loop": (lambda root: (root / "other").symlink_to("other"), 0, "Too many levels of symbolic links"),
    "the model is a file": (lambda root: (root / "other").write_text("x"), 0, "it is a file"),
    "the name is no UTF-8": (lambda root: os.rename(copy(root).parent, os.fsencode(root) + b"/caf\xe9"), 0, "does not have a valid name"),
    "the name is no name": (lambda root: copy(root).parent.rename(root / 'we ird\n"'), 0, "does not have a valid name"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSHAPES)
def test_a_folder_of_another_shape_is_one_unavailable_model(name: str, root: Path) -> None:
    make, version, reason = MISSHAPES[name]
    make(root)
    found = models(root)
    assert found.pop(("foreign", 1)) == ("ready", None)
    (((other, number), (state, why)),) = found.items()
    assert (number, state) == (version, "unavailable"), other
    assert reason in str(why)


def test_what_is_no_model_is_left_alone(root: Path) -> None:
    for name in ("README.md", ".hidden", "LICENSE"):
        (root / name).write_text("x")
    for name in (
        "empty",
        "lost+found",
        "foreign/99999999999999999999",
        "foreign/02",
        "foreign/0",
        "foreign/²",
        "foreign/old",
    ):
        (root / name).mkdir()
    assert list(models(root)) == [("foreign", 1)]


@pytest.mark.parametrize("below", ["", "1"])
def test_a_folder_that_may_not_be_read(below: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(root)
    (root / "other/1" / manifest.FILE).unlink()
    deny(monkeypatch, root / "other" / below)
    state, reason = models(root)["other", 0 if not below else 1]
    assert state == "unavailable"
    assert below or "cannot be read: Permission denied; give the user that runs Manifold permission to read it" in str(
        reason
    )


def test_a_folder_that_vanishes_between_two_looks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(root)
    deny(monkeypatch, root / "other", error=errno.ENOENT)
    assert list(models(root)) == [("foreign", 1)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permissions_as_they_are(root: Path) -> None:
    copy(root).parent.chmod(0)
    assert models(root)["other", 0][0] == "unavailable"
    (root / "other").chmod(stat.S_IRWXU)


def test_a_section_for_a_model_that_cannot_be_read_is_no_mistake(root: Path) -> None:
    (root / "other").write_text("x")
    assert models(root, models={"other": {"instances": 2}})["other", 0][0] == "unavailable"


def test_a_folder_of_models_that_cannot_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deny(monkeypatch, root)
    with pytest.raises(ArtifactError, match="cannot be read: Permission denied"):
        repository.survey(root)


def test_names_that_are_paths_are_no_models(root: Path) -> None:
    """A request for its parent does not load a numbered folder beside the models."""
    folder = root / "models"
    copy(root, "away")
    folder.mkdir()
    shutil.move(root / "foreign", folder / "foreign")
    registry = Registry(Settings(models_dir=folder, device="cpu"))
    for name in ("../away", "..", "a\0b", "foreign/", "/etc", ""):
        with pytest.raises(UnknownModel, match="there is no model"):
            asyncio.run(registry.refresh(name))
    assert list(registry.latest) == ["foreign"]


# --- while it runs ---


def states(service: Any) -> dict[str, str]:
    return dict(service.client.get("/health/ready").json()["models"])


def test_a_folder_that_becomes_unreadable_goes_on_serving_and_comes_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(root)
    with served(root, watch_seconds=0.02) as service:
        registry = service.registry
        closed = deny(monkeypatch, root / "foreign")
        until(lambda: "foreign" in registry.unreadable)
        assert service.client.post("/sample", json={}).status_code == 200
        answer = service.client.post("/admin/models/foreign/load")
        assert (answer.status_code, "cannot be read" in answer.json()["error"]["message"]) == (503, True)
        assert service.client.post("/sample", json={}).status_code == 200
        closed.clear()
        assert service.client.post("/admin/models/foreign/load").status_code == 200
        # this path was never readable
        (root / "late").write_text("x")
        until(lambda: states(service).get("late") == "unavailable")
        (root / "late").unlink()
        copy(root, "late")
        until(lambda: states(service).get("late") == "ready")


@pytest.mark.parametrize("how", ["gone", "empty", "unreadable"])
def test_a_folder_of_models_that_vanishes_takes_no_model_away(
    how: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(root, watch_seconds=0.02) as service:
        looked = 0
        changed = Follower._changed

        def counted(follower: Follower) -> Any:
            nonlocal looked
            looked += 1
            return changed(follower)

        monkeypatch.setattr(Follower, "_changed", counted)
        if how == "unreadable":
            deny(monkeypatch, root)
        else:
            shutil.move(root / "foreign", root.parent / "kept")
            if how == "gone":
                root.rmdir()
        until(lambda: looked >= 3)
        assert service.client.post("/sample", json={}).status_code == 200
        assert service.client.get("/health/ready").status_code == 200


def test_a_version_that_could_not_be_read_is_noticed_when_it_can_be(root: Path) -> None:
    folder = copy(root)
    good = (folder / manifest.FILE).read_bytes()
    hide(root, folder / manifest.FILE)
    with served(root, watch_seconds=0.02) as service:
        assert states(service)["other"] == "unavailable"
        (folder / manifest.FILE).rmdir()
        (folder / manifest.FILE).write_bytes(good)
        until(lambda: states(service)["other"] == "ready")


# --- readiness ---


def broken(root: Path, name: str) -> None:
    (copy(root, name) / "generator.onnx").write_bytes(b"no graph")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"default_model": "foreign"}, 200),
        ({"default_model": "bad"}, 503),
        ({"default_model": "unreadable"}, 503),
        ({}, 200),  # the default mnist-vae does not exist, so any model is enough
        ({"default_model": None}, 200),
        ({"default_model": "foreign", "strict_ready": True}, 503),
        ({"default_model": None, "strict_ready": True}, 503),
    ],
)  # fmt: skip
def test_one_broken_model_of_many(options: dict[str, Any], status: int, root: Path) -> None:
    broken(root, "bad")
    (root / "unreadable").write_text("x")
    with TestClient(create_app(Settings(models_dir=root, device="cpu", **options))) as client:
        wait_until_ready(client)
        answer = client.get("/health/ready")
        assert answer.status_code == client.get("/v2/health/ready").status_code == status
        page = client.get("/metrics").text
        assert f"manifold_ready {float(status == 200)}" in page
        assert 'manifold_model_ready{model="bad",version="1"} 0.0' in page
        if options.get("strict_ready"):
            assert {"bad", "unreadable"} <= set(answer.json()["reason"].split())


def test_no_model_at_all_is_not_ready(root: Path) -> None:
    (root / "foreign/1/generator.onnx").write_bytes(b"no graph")
    with TestClient(create_app(Settings(models_dir=root, device="cpu"))) as client:
        wait_until_ready(client)
        assert client.get("/health/ready").status_code == 503


def test_it_is_not_ready_while_the_first_load_lasts(root: Path) -> None:
    copy(root)
    registry = Registry(Settings(models_dir=root, default_model="foreign", device="cpu"))
    registry._load_first("foreign")
    assert registry.readiness() == (False, "loading other")
    registry._load_first("other")
    assert registry.readiness() == (True, None)
    registry.close()


def test_idle_models_raise_no_alert(root: Path) -> None:
    with TestClient(create_app(Settings(models_dir=root, default_model="foreign", device="cpu", lazy=True))) as client:
        wait_until_ready(client)
        assert 'manifold_model_ready{model="foreign",version="1"} 1.0' in client.get("/metrics").text


def test_sections_are_checked_before_the_start_and_at_it(root: Path) -> None:
    settings = Settings(models_dir=root, default_model="foreign", models={"forein": {"instances": 2}})
    for start in (check, Registry):
        with pytest.raises(
            SettingsError, match=r"models\.forein: there is no such model in .*; did you mean foreign\?"
        ):
            start(settings)


def test_deep_folders_and_links_to_themselves_are_walked_over(root: Path) -> None:
    made = copy(root)
    files = sorted(name for name, _ in repository.everything(made))
    (made / "loop").symlink_to("loop")
    parent = os.open(made, os.O_RDONLY)
    for _ in range(1200):  # deeper than Python's recursion limit
        os.mkdir("a", dir_fd=parent)
        child = os.open("a", os.O_RDONLY, dir_fd=parent)
        os.close(parent)
        parent = child
    os.close(parent)
    try:
        assert sorted(name for name, _ in repository.everything(made)) == files
        assert load(made, device="cpu").manifest.name == "other"
    finally:
        subprocess.run(["rm", "-rf", made / "a"], check=True)  # shutil.rmtree is recursive


def test_check_says_which_models_cannot_be_served(root: Path) -> None:
    settings = Settings(models_dir=root, default_model="foreign")
    copy(root)
    assert survey(settings) == ""
    (root / "other/1/manifest.json").write_text("{} x")
    (root / "empty/1").mkdir(parents=True)
    lines = survey(settings).splitlines()
    assert [line.partition(" cannot be served: ")[0] for line in lines if " cannot be served: " in line] == [
        "empty",
        "other",
    ]
    assert str(root) not in "".join(lines)
    (root / "foreign/1/manifest.json").unlink()
    with pytest.raises(ArtifactError, match="foreign cannot be served"):
        survey(settings)


@pytest.mark.parametrize("arguments", [["--chek"], ["--check", "x"], ["serve"]])
def test_arguments_that_the_service_does_not_know(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["service", *arguments])
    assert main() == 2
    assert "unknown arguments; the only one is --check" in capfd.readouterr().err


NO_PREVIEW = "foreign has no preview; it is made when a model is exported"


def test_a_preview_that_is_no_file_or_cannot_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preview = root / "foreign/1/preview.png"

    def told(service: Any) -> set[tuple[int | str, str]]:
        """Return the errors over both transports."""
        answer = service.client.get("/models/foreign/preview.png")
        with grpc.insecure_channel(service.target) as channel, pytest.raises(grpc.RpcError) as caught:
            stubs.ManifoldStub(channel).GetPreview(pb.GetModelRequest(model="foreign"))
        message = answer.json()["error"]["message"]
        assert caught.value.details() == message
        return {(answer.status_code, message), (caught.value.code().name, message)}

    with served(root, grpc=True) as service:
        missing = {(404, NO_PREVIEW), ("NOT_FOUND", NO_PREVIEW)}
        assert told(service) == missing
        preview.mkdir()
        assert told(service) == missing
        preview.rmdir()
        preview.write_bytes(b"x")
        assert service.client.get("/models/foreign/preview.png").content == b"x"
        real = Path.open

        def guarded(path: Path, *arguments: Any, **options: Any) -> Any:
            if path.name == "preview.png":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *arguments, **options)

        monkeypatch.setattr(Path, "open", guarded)
        message = "the preview of foreign cannot be read: Permission denied"
        assert told(service) == {(503, message), ("UNAVAILABLE", message)}
        assert service.metric(r'manifold_errors_total\{type="internal"\}') == 0


def test_a_path_with_an_internal_error_is_no_series_of_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_data, "content", lambda *given: 1 / 0)
    with served(root) as service:
        assert service.client.get("/models/foreign/preview.png").status_code == 500
        until(
            lambda: service.metric(r'manifold_requests_total\{route="/models/\{name\}/preview.png",status="500"\}') == 1
        )
