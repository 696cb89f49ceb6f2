"""The file of keys and the certificate, which a running service reads again."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from typer.testing import CliRunner

from manifold.cli import app as commands
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from tests import foreign
from tests.conftest import ROOT, wait_until_ready
from tests.keyed import ADMIN, ADMIN_TOKEN, KEY, TOKEN, app_with, bearer, id_of
from tests.served import free_port, served, until


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reloading")
    foreign.write(root)
    return root


def test_a_model_that_was_added_after_the_start(root: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(root, models)
    name = next(each.name for each in sorted(root.iterdir()) if each.is_dir())
    with app_with(models) as client:
        client.headers = bearer(TOKEN)
        wait_until_ready(client)
        assert "there is no model 'late'" in client.post("/sample", json={"model": "late"}).text
        shutil.copytree(models / name / "1", models / "late" / "1")
        shutil.copytree(models / name / "1", models / name / "2")
        for answer in (
            client.post("/sample", json={"model": "late"}),
            client.get("/models/late"),
            client.post("/v2/models/late/infer", json={"inputs": []}),
        ):
            assert answer.status_code == 404
            assert "late was added to the folder of models after the service started; load it with" in answer.text
        version = client.post("/sample", json={"model": name, "version": 2}).json()["error"]
        assert version["field"] == "version" and f"{name} 2 was added" in version["message"]
        assert "there is no model" in client.post("/sample", json={"model": "../models/late"}).text


def test_keys_are_read_again_without_a_restart(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = CliRunner().invoke(commands, ["key", "ops", "--scope", "infer", "--scope", "admin", "--file", str(file)])
    ops = made.stdout.split("\n")[0]
    # the file holds hashes of random tokens, and the container's user has to read it
    assert file.stat().st_mode & 0o777 == 0o644
    assert ops not in file.read_text()
    with app_with(root, keys="", keys_file=file) as client:
        wait_until_ready(client)
        token = CliRunner().invoke(commands, ["key", "late", "--file", str(file), "--rate", "5"]).stdout.split("\n")[0]
        assert client.get("/models", headers=bearer(token)).status_code == 401
        told = client.post("/admin/reload", headers=bearer(ops)).json()
        assert told["keys"] == [
            {"name": "ops", "id": id_of(ops), "scopes": ["admin", "infer"], "rate": 0},
            {"name": "late", "id": id_of(token), "scopes": ["infer"], "rate": 5},
        ]
        assert client.get("/models", headers=bearer(token)).status_code == 200
        good = file.read_text()
        file.write_text(good.replace("late", "la te"))
        answer = client.post("/admin/reload", headers=bearer(ops))
        assert answer.status_code == 422
        assert "the previous keys and certificate stay in force" in answer.json()["error"]["message"]
        assert client.get("/models", headers=bearer(token)).status_code == 200
        file.write_text("\n".join(line for line in good.split("\n") if "late" not in line))
        client.post("/admin/reload", headers=bearer(ops))
        assert client.get("/models", headers=bearer(token)).status_code == 401
    again = CliRunner().invoke(commands, ["key", "ops", "--file", str(file)])
    assert again.exit_code != 0
    assert str(again.exception).startswith(f"{file}: it already contains a key named ops")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certify(authority: trustme.CA, folder: Path) -> dict[str, Path]:
    """Write a new certificate for this machine. Return its paths by the names of the settings."""
    made = authority.issue_cert("127.0.0.1", "localhost")
    made.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "certificate.pem").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    return {"tls_certificate": folder / "certificate.pem", "tls_key": folder / "key.pem"}


def serial(port: int) -> str:
    """Return the digest of the certificate that a port presents."""
    return hashlib.sha256(ssl.get_server_certificate(("127.0.0.1", port)).encode()).hexdigest()


def test_tls_for_both_and_a_new_certificate_while_it_runs(root: Path, tmp_path: Path, authority: trustme.CA) -> None:
    options = certify(authority, tmp_path)
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    channel_of = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with served(root, grpc=True, auth="on", keys=f"{KEY} {ADMIN}", **options) as service:
        url, rpc_port = f"https://localhost:{service.port}", service.server.rpc.port

        def sample() -> pb.SampleResponse:
            with grpc.secure_channel(f"localhost:{rpc_port}", channel_of) as channel:
                mine = [("authorization", f"Bearer {TOKEN}")]
                answer: pb.SampleResponse = stubs.ManifoldStub(channel).Sample(
                    pb.SampleRequest(seed=1), metadata=mine, timeout=60
                )
                return answer

        answer = httpx.post(f"{url}/sample", json={"seed": 1}, headers=bearer(TOKEN), verify=trusting)
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"].startswith("max-age=")
        assert sample().images[0] == base64.b64decode(answer.json()["images"][0])
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{service.port}/health/live")
        before = {serial(service.port), serial(rpc_port)}
        assert len(before) == 1
        certify(authority, tmp_path)
        assert httpx.post(f"{url}/admin/reload", headers=bearer(ADMIN_TOKEN), verify=trusting).json()["tls"]
        until(lambda: serial(service.port) not in before and serial(service.port) == serial(rpc_port))
        after = serial(service.port)
        assert sample().images
        (tmp_path / "key.pem").write_text("not a key")
        assert httpx.post(f"{url}/admin/reload", headers=bearer(ADMIN_TOKEN), verify=trusting).status_code == 422
        assert sample().images
        assert serial(service.port) == after


def environment_of(**options: object) -> dict[str, str]:
    """Return the environment variables of these settings."""
    told = {f"MANIFOLD_{name.upper()}": str(value) for name, value in options.items()}
    return {**os.environ, "PYTHONPATH": str(ROOT), **told}


def test_a_signal_reloads_and_a_probe_asks(root: Path, tmp_path: Path, authority: trustme.CA) -> None:
    port, file = free_port(), tmp_path / "keys"
    file.write_text(f"{ADMIN}\n")
    environment = environment_of(
        **certify(authority, tmp_path), keys_file=file, models_dir=root, host="0.0.0.0", port=port, grpc_port=0, default_model="foreign"
    )  # fmt: skip
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())

    def probe() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "manifold.service.probe"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )

    assert probe().returncode == 1
    with subprocess.Popen(
        [sys.executable, "-m", "manifold.service"], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trusting, headers=bearer(TOKEN)) as client:
                until(lambda: probe().returncode == 0, 120)
                assert client.get("/models").status_code == 401
                file.write_text(f"{ADMIN}\n{KEY}\n")
                process.send_signal(signal.SIGHUP)
                until(lambda: client.get("/models").status_code == 200)
                file.write_text("nonsense")
                process.send_signal(signal.SIGHUP)
                time.sleep(0.5)
                assert client.get("/models").status_code == 200
        finally:
            process.terminate()
            error = process.communicate(timeout=60)[1]
    assert "reload failed; the previous keys and certificate stay in force" in error
    assert "nonsense" not in error


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tls_certificate": "there.pem"}, "set both or neither"),
        ({"tls_certificate": "no.pem", "tls_key": "no.pem"}, "no.pem cannot be read"),
        ({"keys_file": "nowhere"}, "nowhere cannot be read"),
    ],
)
def test_files_that_are_not_there_end_the_start(options: dict[str, str], complaint: str, root: Path) -> None:
    environment = environment_of(models_dir=root, **options)
    done = subprocess.run(
        [sys.executable, "-m", "manifold.service"],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
