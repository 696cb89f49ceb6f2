"""`manifold push` and `pull` with folders: what is copied, what is refused, and what stays behind."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from manifold import cli
from manifold.runtime import checks, engine, extras, published, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.errors import ArtifactError, InvalidValue, ManifoldError, UnknownModel
from manifold.runtime.sharing import addresses, pulling, sources
from manifold.runtime.sharing.addresses import HubAddress
from tests.conftest import ROOT, SHIPPED
from tests.pushed import artifact, content, is_clean, restate, run

# --- there and back -------------------------------------------------------------------------------------------------------------


def test_a_model_is_the_same_after_a_push_and_a_pull(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    share, here = tmp_path / "share", tmp_path / "here"
    assert run("push", "own", share, "--models", tmp_path / "models").splitlines()[0].startswith("push: ")
    assert content(share / "own/1") == content(made)
    said = run("pull", share / "own", "--models", here, "--quiet")
    assert said.splitlines()[0] == str(here / "own/1")
    assert content(here) == {f"own/1/{name}": text for name, text in content(made).items()}
    found = checks.check(share / "own/1", "cpu", seal=False)
    assert (found.problems, found.notes) == ([], [])  # the card is beside the artifact, not in it
    first, again = (engine.load(folder).sample(3, seed=1).data for folder in (made, here / "own/1"))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("below", ["", "own", "own/1"])
def test_a_source_is_a_folder_of_models_a_model_or_an_artifact(below: str, tmp_path: Path) -> None:
    artifact(tmp_path)
    run("pull", tmp_path / "models" / below, "--models", tmp_path / "here")
    assert repository.scan(tmp_path / "here") == {"own": [1]}


def test_the_latest_version_is_pulled_unless_another_is_named(tmp_path: Path) -> None:
    for version in (2, 10):
        artifact(tmp_path, version, seed=version)
    models, here = tmp_path / "models", tmp_path / "here"
    assert [line.split()[0] for line in run("pull", models, "--list").splitlines()] == [
        str(models / "own" / each) for each in ("2", "10")
    ]
    run("pull", models, "--models", here)
    assert repository.versions(here / "own") == [10]
    run("pull", models / "own/2", "--models", here)
    assert repository.versions(here / "own") == [2, 10]


def test_a_source_with_several_models_lists_them(tmp_path: Path) -> None:
    artifact(tmp_path)
    artifact(tmp_path, name="other")
    with pytest.raises(InvalidValue, match=r"has 2 models; name one, such as .*/models/other") as caught:
        run("pull", tmp_path / "models", "--models", tmp_path / "here")
    assert caught.value.valid == ["other", "own"]


def test_a_source_without_artifacts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="contains no artifact"):
        run("pull", tmp_path, "--models", tmp_path / "here")
    with pytest.raises(
        UnknownModel, match=r"there is no such folder\. For a repository of Hugging Face, write hf://me/digits"
    ):
        run("pull", "me/digits", "--models", tmp_path / "here")
    assert "contains no artifact" in run("pull", tmp_path, "--list")


def test_files_that_are_not_listed_are_left_out(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    (made / "extra.py").write_text("print('run me')")
    said = run("pull", made, "--models", tmp_path / "here")
    assert "not pulled, as the manifest does not list them: extra.py" in said
    assert "extra.py" not in content(tmp_path / "here/own/1")
    said = run("push", made, tmp_path / "share")
    assert "not pushed, as the manifest does not list them: extra.py" in said
    assert "extra.py" not in content(tmp_path / "share/own/1")


def test_a_folder_in_an_artifact_must_not_be_a_link(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    link_folder(made)
    for source, path in (
        (sources.FolderSource(made), "page/curves.json"),
        (sources.FolderSource(made.parent), "1/page/curves.json"),
    ):
        with pytest.raises(ArtifactError, match=r"curves\.json: is a link; replace it by a copy"):
            source.fetch(path, tmp_path / "copy", 100)


def test_links_to_folders_of_models_are_followed(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    (tmp_path / "linked").symlink_to(made.parent)
    run("pull", tmp_path / "linked", "--models", tmp_path / "here")
    assert content(tmp_path / "here/own/1") == content(made)


# --- refusals -------------------------------------------------------------------------------------------------------------------


def corrupt(folder: Path) -> None:
    """Change a file, but not its size."""
    path = folder / "generator.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lengthen(folder: Path) -> None:
    """Append to a file."""
    with (folder / "page/curves.json").open("a") as file:
        file.write(" ")


def remove(folder: Path) -> None:
    """Remove a file."""
    (folder / "preview.png").unlink()


def link(folder: Path) -> None:
    """Replace a file by a link to the same content inside the folder."""
    (folder / "preview.png").rename(folder / "other.png")
    (folder / "preview.png").symlink_to("other.png")


def link_folder(folder: Path) -> None:
    """Replace a folder by a link to one outside."""
    (folder / "page").rename(folder.parent / "outside")
    (folder / "page").symlink_to(folder.parent / "outside")


def unseal(folder: Path) -> None:
    """Remove the checksums."""
    restate(folder, files={})


def lists(name: str) -> Callable[[Path], None]:
    """Return a function that adds a file with a name to the manifest."""

    def change(folder: Path) -> None:
        files = json.loads((folder / "manifest.json").read_text())["files"]
        restate(folder, files={**files, name: {"sha256": "0" * 64, "bytes": 1}})

    return change


def unlist(folder: Path) -> None:
    """Remove the graph from the list of checksums."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    restate(folder, files={name: record for name, record in files.items() if not name.endswith(".onnx")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (corrupt, r"the files do not match the manifest:\n  files.generator.onnx: altered: it has SHA-256"),
        (lengthen, r"files.page/curves.json: has 12 bytes, but the manifest says 11"),
        (remove, r"files.preview.png: missing"),
        (link, r"preview.png: is a link; replace it by a copy"),
        (link_folder, r"(is a link|missing)"),
        (unseal, r"the manifest has no checksums.*manifold check --seal"),
        (unlist, r"generator.onnx: has no checksum under files"),
        (lists("../../evil"), r"refused:\n  files\.\.\./\.\./evil: the path leads out of its folder"),
        (lists("/etc/evil"), r"files\./etc/evil: the path leads out of its folder"),
        (lists("a/../../evil"), r"the path leads out of its folder"),
        (lists("a\\..\\evil"), r"a backslash, a colon or a control character"),
        (lists("C:evil"), r"a backslash, a colon or a control character"),
        (lists(".git/config"), r"is in a hidden folder"),
        (lists("manifest.json"), r"a manifest cannot contain its own checksum"),
        (lists("preview.png/x"), r"a part of its path is also a file"),
    ],
)
def test_a_damaged_or_hostile_artifact_is_not_pulled(
    change: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    made = artifact(tmp_path)
    change(made)
    with pytest.raises(ArtifactError, match=message):
        run("pull", made, "--models", tmp_path / "new/models")
    assert not (tmp_path / "new/models").exists()
    (tmp_path / "old").mkdir()
    with pytest.raises(ArtifactError, match=message):
        run("pull", made, "--models", tmp_path / "old")
    assert is_clean(tmp_path / "old") and (tmp_path / "old").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            corrupt,
            r"not pushed, as its files do not match.*seal the artifact with `manifold check --seal .*:\n  files.generator.onnx: altered",
        ),
        (remove, r"files.preview.png: missing"),
        (unseal, r"no checksums, so others could not verify.*`manifold check --seal .*own/1`"),
        (unlist, r"generator.onnx' has no checksum"),
    ],
)
def test_an_artifact_that_cannot_be_verified_is_not_pushed(
    change: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    made = artifact(tmp_path)
    change(made)
    with pytest.raises(ArtifactError, match=message):
        run("push", made, tmp_path / "share")
    assert not (tmp_path / "share").exists()


def test_a_pipe_in_the_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    (made / "preview.png").unlink()
    os.mkfifo(made / "preview.png")
    with pytest.raises(ArtifactError, match=r"preview\.png"):
        run("pull", made, "--models", tmp_path / "here")
    with pytest.raises(ArtifactError, match="is not a regular file"):
        sources.copy_limited(made / "preview.png", tmp_path / "copy", 10)


def test_a_version_that_differs_from_its_folder_is_refused(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    made.rename(made.parent / "7")
    with pytest.raises(ArtifactError, match="the manifest says version 1, but the folder is 7"):
        run("pull", made.parent, "--models", tmp_path / "here")


def test_an_interrupted_pull_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, here, fetched = artifact(tmp_path), tmp_path / "here", []
    copy = sources.FolderSource.fetch

    def interrupted(self: sources.FolderSource, path: str, target: Path, limit: int) -> None:
        fetched.append(path)
        if len(fetched) == 3:
            assert any(here.glob("own/.staging-*/generator.onnx"))  # one file is there already
            raise KeyboardInterrupt
        copy(self, path, target, limit)

    monkeypatch.setattr(sources.FolderSource, "fetch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pulling.pull(sources.folder(made), here, tell=lambda text: None)
    assert not here.exists()


def test_nothing_is_unpickled_or_run(tmp_path: Path) -> None:
    """Pulling and pushing load no graph library, and find no class for a pickle."""
    made = artifact(tmp_path)
    (made / "state.pkl").write_bytes(pickle.dumps(os.system))
    shutil.copy(SHIPPED / "mnist-vae-ts/3/model.pt", made / "model.pt")
    repository.seal(made)
    code = f"""
import sys
found = []
sys.addaudithook(lambda event, arguments: found.append(arguments) if event == "pickle.find_class" else None)
from manifold import cli
for arguments in (["push", {str(made)!r}, {str(tmp_path / "share")!r}], ["pull", {str(tmp_path / "share")!r}, "--models", {str(tmp_path / "here")!r}]):
    cli.app(arguments, standalone_mode=False)
print(found, {{"torch", "onnxruntime", "onnx"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[] set()"], done.stderr
    assert (tmp_path / "here/own/1/state.pkl").exists()


def test_torchscript_is_pulled_with_a_warning(tmp_path: Path) -> None:
    said = run("pull", SHIPPED / "mnist-vae-ts", "--models", tmp_path)
    assert "TorchScript, and these are programs" in said


# --- versions -------------------------------------------------------------------------------------------------------------------


def test_the_same_content_is_there_already(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    run("pull", made, "--models", tmp_path / "here")
    before = (tmp_path / "here/own/1").stat().st_mtime_ns
    assert "this version is there already" in run("pull", made, "--models", tmp_path / "here")
    assert (tmp_path / "here/own/1").stat().st_mtime_ns == before
    run("push", made, tmp_path / "share")
    assert "this version is there already" in run("push", made, tmp_path / "share")


def test_other_content_under_the_same_version_is_an_error(tmp_path: Path) -> None:
    made, other = artifact(tmp_path / "a"), artifact(tmp_path / "b", seed=1)
    here = tmp_path / "here"
    run("pull", made, "--models", here)
    with pytest.raises(
        ArtifactError, match=r"here/own/1: exists with other content.*--name, or as the next version with --next"
    ):
        run("pull", other, "--models", here)
    with pytest.raises(ArtifactError, match="push it as the next version there with --next"):
        run("push", other, here)
    assert content(here / "own/1") == content(made)
    run("pull", other, "--models", here, "--name", "mine")
    assert manifests.read(here / "mine/1").name == "mine" and engine.load(here / "mine/1").name == "mine"
    run("pull", other, "--models", here, "--next")
    assert manifests.read(here / "own/2").version == 2
    assert manifests.read(here / "own/2").files == manifests.read(other).files
    assert "this version is there already" in run("pull", other, "--models", here, "--next")
    assert repository.scan(here) == {"mine": [1], "own": [1, 2]}


def test_a_damaged_version_in_the_folder_is_reported(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    run("pull", made, "--models", tmp_path / "here")
    corrupt(tmp_path / "here/own/1")
    with pytest.raises(
        ArtifactError, match=r"is there already, but damaged; remove this folder.*\n  files.generator.onnx: altered"
    ):
        run("pull", made, "--models", tmp_path / "here")


def test_the_record_of_published_versions_is_kept(tmp_path: Path) -> None:
    data = {"data": {"data": "made"}}
    made, other = (artifact(tmp_path / str(seed), 3, seed, provenance=data) for seed in (0, 1))
    here = tmp_path / "here"
    here.mkdir()
    (here / published.FILE).write_text(json.dumps({"own/3": published.identity(made)}))
    with pytest.raises(ArtifactError, match="records other content for this version"):
        run("pull", other, "--models", here)
    run("pull", made, "--models", here)
    run("pull", other, "--models", here, "--next")
    assert repository.scan(here) == {"own": [3, 4]}


def test_a_model_of_other_items_does_not_continue_a_name(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    run("pull", made, "--models", tmp_path / "here")
    with pytest.raises(InvalidValue, match=r"holds a model of images.*choose another name, such as my-own"):
        run("pull", SHIPPED / "transactions-vae", "--models", tmp_path / "here", "--name", "own", "--next")
    with pytest.raises(ManifoldError, match="'a b' is not valid"):
        run("pull", made, "--models", tmp_path / "here", "--name", "a b")


@pytest.mark.parametrize(
    ("below", "message"), [("own/1", "is an artifact"), ("own", "is the folder of one model"), ("", "is in .* already")]
)
def test_a_target_must_be_another_folder_of_models(below: str, message: str, tmp_path: Path) -> None:
    made = artifact(tmp_path)
    with pytest.raises(InvalidValue, match=message):
        run("push", made, tmp_path / "models" / below)


# --- addresses ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("hf://me/digits", HubAddress("me/digits")),
        ("hf://me/digits/2", HubAddress("me/digits", "2")),
        ("hf://me/zoo/a/b@refs/pr/1", HubAddress("me/zoo", "a/b", "refs/pr/1")),
        ("hf://me/my_digits.v2/@main", HubAddress("me/my_digits.v2", "", "main")),
        ("models/x", Path("models/x")),
    ],
)
def test_addresses(text: str, place: object) -> None:
    assert addresses.read(text, "source") == place
    assert str(place) == text.replace("/@", "@")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf://digits", r"write hf://OWNER/REPO\[/SUBFOLDER\]\[@REVISION\]"),
        ("hf://me/a--b", "is not the address"), ("hf://me/..", "is not the address"), ("hf://me/a.git", "is not the address"),
        ("hf://me/a/../b", "the sub-folder leads out"), ("hf://me/a//b", "the sub-folder leads out"), ("hf://me/a@", "no revision after the @"),
        ("https://huggingface.co/me/digits", "is a web page; write hf://me/digits"), ("s3://bucket/x", "neither a folder nor hf://"), ("", "neither a folder"),
    ],
)  # fmt: skip
def test_addresses_that_are_not_valid(text: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        addresses.read(text, "source")


def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr(
        extras, "requirements", lambda: ['huggingface_hub>=1.0; extra == "hub"', 'onnxruntime; extra == "cpu"']
    )
    monkeypatch.setattr(sys, "argv", ["manifold", "pull", "hf://me/digits"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert (
        "huggingface_hub is not installed. It is part of the extra hub; install it with: pip install"
        in capsys.readouterr().err
    )
