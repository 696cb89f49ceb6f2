"""`manifold push` and `pull` with the real huggingface_hub and a local stand-in for the Hub."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifold.runtime import manifest as manifests
from manifold.runtime import repository
from manifold.runtime.errors import ArtifactError, Forbidden, InvalidValue, Unauthorized, Unavailable, UnknownModel
from manifold.runtime.sharing import card
from tests import hub_stand_in as stand_in
from tests.conftest import ROOT
from tests.hub_stand_in import READER, WRITER, Handler, Hub
from tests.pushed import artifact, content, front_of, is_clean, run

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("huggingface_hub") is None,
        reason="huggingface_hub is not installed; it is in the extras hub and dev",
    ),
    pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning"),  # by uploads of huggingface_hub
]


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with stand_in.running() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Return the stand-in, empty, as the Hub of this process. Its writer is logged in."""
    from huggingface_hub import constants

    for state in (server.repos, server.objects, server.requests, server.faults, server.messages):
        state.clear()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has the protocol of large files alone
    monkeypatch.setenv("HF_TOKEN", WRITER)
    return server


def below(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    """Return the files below a folder of a repository."""
    return {name.removeprefix(f"{folder}/"): text for name, text in files.items() if name.startswith(f"{folder}/")}


def test_the_commands_use_the_environment_of_the_hub(server: Hub, tmp_path: Path) -> None:
    """The whole way in processes of their own: HF_ENDPOINT and HF_TOKEN are read, and the token is never printed."""
    made = artifact(tmp_path)
    server.repos.clear()
    environment = {
        **os.environ, "HF_ENDPOINT": server.address, "HF_TOKEN": WRITER, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip

    def process(*arguments: object) -> str:
        command = [sys.executable, "-m", "manifold.cli", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert WRITER not in done.stdout + done.stderr
        return done.stdout

    said = process("push", "own", "hf://me/digits", "--models", tmp_path / "models")
    assert said == f"{server.address}/me/digits/tree/main/1\n"
    assert server.repos["me/digits"].private
    assert below(server.files("me/digits"), "1") == content(made)
    assert process("pull", "hf://me/digits", "--models", tmp_path / "here") == f"{tmp_path}/here/own/1\n"
    assert content(tmp_path / "here/own/1") == content(made)


def test_versions_are_added_and_the_card_follows(hub: Hub, tmp_path: Path) -> None:
    first, second = artifact(tmp_path), artifact(tmp_path, 2, seed=1)
    run("push", first, "hf://me/digits", "--public")
    assert not hub.repos["me/digits"].private
    earlier = hub.repos["me/digits"].refs["main"]
    run("push", second, "hf://me/digits")
    files = hub.files("me/digits")
    assert below(files, "1") == content(first) and below(files, "2") == content(second)
    text = files["README.md"].decode()
    assert "manifold pull hf://me/digits/2\n" in text and "versions here: 1, 2" in text and "(2/preview.png)" in text
    assert front_of(text)["library_name"] == "manifold"
    assert hub.messages == ["Add own/1", "Add own/2"]
    lines = run("pull", "hf://me/digits", "--list").splitlines()
    assert [line.split()[0] for line in lines] == ["hf://me/digits/1", "hf://me/digits/2"]
    run("pull", "hf://me/digits/1", "--models", tmp_path / "one")
    run("pull", f"hf://me/digits@{earlier}", "--models", tmp_path / "one")  # the latest version of that commit
    run("pull", "hf://me/digits", "--models", tmp_path / "two")
    assert repository.scan(tmp_path / "one") == {"own": [1]} and repository.scan(tmp_path / "two") == {"own": [2]}


def test_the_metadata_of_the_card_is_what_the_hub_reads(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    run("push", artifact(tmp_path), "hf://me/digits")
    read = ModelCard(hub.files("me/digits")["README.md"].decode()).data
    assert (read.library_name, read.license, read.model_name) == ("manifold", "mit", "own")
    assert [(each.metric_type, each.metric_value) for each in read.eval_results] == [("fid", 12.5), ("kid", 0.5)]


def test_a_sub_folder_and_a_branch(hub: Hub, tmp_path: Path) -> None:
    made = artifact(tmp_path)
    there = hub.repo("me/zoo", {"README.md": b"# Zoo\n"})
    there.refs["dev"] = there.refs["main"]
    run("push", made, "hf://me/zoo/own@dev")
    assert "own/1/manifest.json" not in hub.files("me/zoo")
    files = hub.files("me/zoo", "dev")
    assert below(files, "own/1") == content(made) and files["README.md"] == b"# Zoo\n"
    assert card.BEGIN in files["own/README.md"].decode()
    run("pull", "hf://me/zoo@dev", "--models", tmp_path / "here")  # a repository that is a folder of models
    assert content(tmp_path / "here/own/1") == content(made)
    with pytest.raises(InvalidValue, match=r"hf://me/new@dev|has no branch dev"):
        run("push", made, "hf://me/new@dev")
    assert "me/new" not in hub.repos


def test_an_artifact_at_the_top_of_a_repository(hub: Hub, tmp_path: Path) -> None:
    made = artifact(tmp_path)
    hub.repo("me/plain", {**content(made), "README.md": b"# Plain\n"})
    said = run("pull", "hf://me/plain", "--models", tmp_path / "here")
    assert "does not list them: .gitattributes, README.md" in said
    assert content(tmp_path / "here/own/1") == content(made)
    with pytest.raises(InvalidValue, match=r"is an artifact itself; push to a sub-folder, such as hf://me/plain/own"):
        run("push", made, "hf://me/plain")


def test_a_version_is_never_replaced(hub: Hub, tmp_path: Path) -> None:
    made, other = artifact(tmp_path / "a"), artifact(tmp_path / "b", seed=1)
    run("push", made, "hf://me/digits")
    assert "this version is there already" in run("push", made, "hf://me/digits")
    with pytest.raises(ArtifactError, match=r"hf://me/digits/1: exists with other content.*--next"):
        run("push", other, "hf://me/digits")
    assert hub.messages == ["Add own/1"]
    run("push", other, "hf://me/digits", "--next")
    assert "this version is there already" in run("push", other, "hf://me/digits", "--next")
    assert hub.messages == ["Add own/1", "Add own/2"]
    run("pull", "hf://me/digits", "--models", tmp_path / "here")
    assert manifests.read(tmp_path / "here/own/2").version == 2
    with pytest.raises(InvalidValue, match=r"hf://me/digits/2 is 'own', a model of images, and this one is 'another'"):
        run("push", artifact(tmp_path, name="another"), "hf://me/digits")


def test_figures_and_the_card_of_a_user(hub: Hub, tmp_path: Path) -> None:
    made = artifact(tmp_path)
    run("push", made, "hf://me/digits")
    repository.save_metrics(made, [manifests.Metric(name="fid", value=9.75)])
    assert "its figures there were replaced" in run("push", made, "hf://me/digits")
    files = hub.files("me/digits")
    assert json.loads(files["1/manifest.json"])["metrics"] == [
        {"name": "fid", "value": 9.75, "unit": "", "protocol": {}}
    ]
    assert b"| fid | 9.75 |" in files["README.md"] and hub.messages[-1] == "Renew own/1"
    hub.repo("me/mine", {"README.md": b"# Mine\n"})
    assert "is kept; --replace-card" in run("push", made, "hf://me/mine")
    assert hub.files("me/mine")["README.md"] == b"# Mine\n"


# --- refusals -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        ("generator.onnx", lambda text: bytes([text[0] ^ 1]) + text[1:], r"files.generator.onnx: altered"),
        ("generator.onnx", lambda text: text[:-1], r"files.generator.onnx: has \d+ bytes, but the manifest says"),
        ("preview.png", None, r"files.preview.png: missing"),
        ("manifest.json", lambda text: text[:50], r"hf://me/digits/1/manifest.json: "),
        ("manifest.json", lambda text: text.replace(b"page/curves.json", b"../curves.json"), r"files\.\.\./curves.json: the path leads out"),
    ],
)  # fmt: skip
def test_damaged_artifacts_are_not_pulled(path: str, new: object, message: str, hub: Hub, tmp_path: Path) -> None:
    files = {f"1/{name}": text for name, text in content(artifact(tmp_path)).items()}
    text = files.pop(f"1/{path}")
    if callable(new):
        files[f"1/{path}"] = new(text)
    hub.repo("me/digits", files)
    with pytest.raises(ArtifactError, match=message) as caught:
        run("pull", "hf://me/digits", "--models", tmp_path / "here")
    assert is_clean(tmp_path / "here") and "/tmp" not in caught.value.message


def test_extra_files_are_left_out(hub: Hub, tmp_path: Path) -> None:
    files = {f"1/{name}": text for name, text in content(artifact(tmp_path)).items()}
    hub.repo("me/digits", {**files, "1/run.py": b"print()", "1/page/x.pkl": b""})
    assert "does not list them: page/x.pkl, run.py" in run("pull", "hf://me/digits", "--models", tmp_path / "here")
    assert not any(request.endswith(("run.py", "x.pkl")) for request in hub.requests)


def cut_short(handler: Handler) -> None:
    """Announce more bytes than are sent, and close the connection."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(b"x" * 10)
    handler.close_connection = True


def test_an_interrupted_download_leaves_nothing_behind(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    hub.repo("me/digits", {f"1/{name}": text for name, text in content(artifact(tmp_path)).items()})
    download = huggingface_hub.HfApi.hf_hub_download

    def interrupted(self: object, repo: str, name: str, **options: object) -> object:
        if name.endswith("preview.png"):
            raise KeyboardInterrupt
        return download(self, repo, name, **options)

    monkeypatch.setattr(huggingface_hub.HfApi, "hf_hub_download", interrupted)
    assert run("pull", "hf://me/digits", "--models", tmp_path / "here", status=130)
    assert not (tmp_path / "here").exists()


def test_a_broken_connection_is_reported(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("me/digits", {f"1/{name}": text for name, text in content(artifact(tmp_path)).items()})
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts of huggingface_hub
    hub.faults["GET .*generator.onnx"] = cut_short
    with pytest.raises((Unavailable, ArtifactError)):
        run("pull", "hf://me/digits", "--models", tmp_path / "here")
    assert is_clean(tmp_path / "here")


@pytest.mark.parametrize(
    ("token", "kind", "message"),
    [
        (
            READER,
            Forbidden,
            r"the token is not permitted to write to it \(403: You do not have the required permissions",
        ),
        (
            "hf_wrong_token",
            Unauthorized,
            r"the Hub does not accept the token \(401.*log in with `hf auth login`, or set HF_TOKEN",
        ),
        (None, (Unauthorized, UnknownModel), r"(log in with `hf auth login`|no token is set)"),
    ],
)
def test_who_may_not_push_is_told_so(
    token: str | None, kind: type[Exception], message: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repo("me/digits")
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(kind, match=message) as caught:
        run("push", artifact(tmp_path), "hf://me/digits")
    assert "hf_" not in str(caught.value)
    assert hub.messages == []


def test_private_and_unknown_repositories(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("me/secret", private=True)
    hub.repo("me/empty")
    with pytest.raises(
        UnknownModel, match="there is no repository me/digit, or it is private; check the name; the token may lack"
    ):
        run("pull", "hf://me/digit", "--models", tmp_path)
    with pytest.raises(UnknownModel, match="hf://me/empty: contains no artifact"):
        run("pull", "hf://me/empty", "--models", tmp_path)
    with pytest.raises(UnknownModel, match="me/empty has no branch, tag or commit v9; correct the part after the @"):
        run("pull", "hf://me/empty@v9", "--models", tmp_path)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        UnknownModel,
        match="or it is private; check the name; no token is set: log in with `hf auth login`, or set HF_TOKEN",
    ):
        run("pull", "hf://me/secret", "--models", tmp_path)


def test_a_push_that_loses_a_race_changes_nothing(hub: Hub, tmp_path: Path) -> None:
    there = hub.repo("me/digits")

    def overtake(handler: Handler) -> bool:
        there.commit("main", {"other": b""})
        return False

    hub.faults["POST .*/preupload/"] = overtake
    with pytest.raises(Unavailable, match=r"the repository has changed meanwhile.*repeat the command"):
        run("push", artifact(tmp_path), "hf://me/digits")
    assert hub.files("me/digits") == {"other": b""}


def test_a_pull_takes_all_files_from_one_commit(hub: Hub, tmp_path: Path) -> None:
    """A push that comes between reading the list and the files does not mix two states of the branch."""
    run("push", artifact(tmp_path), "hf://me/digits")
    there = hub.repos["me/digits"]
    before = hub.files("me/digits")
    name = next(each for each in before if each.endswith("preview.png"))
    pushed: list[str] = []

    def overtake(handler: Handler) -> bool:
        if not pushed:
            pushed.append(name)
            there.commit("main", {**hub.files("me/digits"), name: b"other"})
        return False

    hub.faults[f"(GET|HEAD) .*/resolve/.*{name.rpartition('/')[2]}"] = overtake
    run("pull", "hf://me/digits", "--models", tmp_path / "pulled")
    (pulled,) = (tmp_path / "pulled").rglob(name.rpartition("/")[2])
    assert pushed and pulled.read_bytes() == before[name] and hub.files("me/digits")[name] == b"other"


def test_errors_of_the_hub_do_not_show_signed_addresses(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repo("me/digits")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.faults["PUT /objects/"] = lambda handler: handler.refuse(403, "no")
    with pytest.raises((Forbidden, Unavailable)) as caught:
        run("push", artifact(tmp_path), "hf://me/digits")
    assert "signature" not in str(caught.value) and hub.messages == []
    hub.faults.clear()
    hub.faults["POST .*/commit/"] = lambda handler: handler.refuse(500, "Internal Error")
    with pytest.raises(Unavailable, match=r"reports an error \(500: Internal Error\); try again later"):
        run("push", artifact(tmp_path / "b"), "hf://me/digits")


def test_no_network(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        for arguments in (
            ("pull", "hf://me/digits", "--models", tmp_path / "here"),
            ("push", artifact(tmp_path), "hf://me/digits"),
        ):
            with pytest.raises(
                Unavailable, match=r"could not do this: .*check the network, and HF_ENDPOINT if it is set"
            ):
                run(*arguments)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match=r"(?i)offline"):
        run("pull", "hf://me/digits", "--models", tmp_path / "here")
