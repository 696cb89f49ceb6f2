"""Settings: a misspelt name is an error that suggests the nearest one, with --check and at the start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from manifold.service import security, settings
from manifold.service.processes import ports
from manifold.service.settings import ModelSettings, Settings, SettingsError, check_variables
from tests import foreign
from tests.conftest import ROOT
from tests.test_deploy import variables


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("MANIFOLD_PROT", "MANIFOLD_PORT"),
        ("MANIFOLD_MODEL_DIR", "MANIFOLD_MODELS_DIR"),
        ("MANIFOLD_DEFAULT_MODELL", "MANIFOLD_DEFAULT_MODEL"),
        ("MANIFOLD_MAXROWS", "MANIFOLD_MAX_ROWS"),
        ("manifold_prot", "MANIFOLD_PORT"),
        ("MANIFOLD_HOST__NAME", "MANIFOLD_HOST"),
        ("MANIFOLD_TLS_CERT", "MANIFOLD_TLS_CERTIFICATE"),
        ("MANIFOLD_REQUIRE", "MANIFOLD_REQUIRE_CHECKSUMS"),
        ("MANIFOLD_MODELS_MNIST__DEVICE", ""),
        ("MANIFOLD_", ""),
        ("MANIFOLD_ZZZ", ""),
    ],
)
def test_a_misspelt_variable_is_an_error(name: str, suggested: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}: there is no such setting") as caught:
        check_variables({name: "1"})
    advised = caught.value.message.partition("there is no such setting; ")[2]
    assert advised == f"did you mean {suggested}?" or (not suggested and advised)


def test_a_name_like_no_setting_names_the_page_of_settings() -> None:
    with pytest.raises(
        SettingsError,
        match=r"MANIFOLD_LOG_LEVEL: there is no such setting; docs/reference/settings.md lists all settings$",
    ):
        check_variables({"MANIFOLD_LOG_LEVEL": "1"})


def test_all_that_are_wrong_are_named() -> None:
    with pytest.raises(SettingsError, match=r"settings:\n  MANIFOLD_A: .*\n  MANIFOLD_B: "):
        check_variables({"MANIFOLD_B": "1", "MANIFOLD_A": "1"})


@pytest.mark.parametrize(
    "environment",
    [
        {"MANIFOLD_ZZZ": ""},  # docker-compose passes unset variables as empty ones
        {"MANIFOLD_DATA": "/sets", "MANIFOLD_CACHE": "/c", "MANIFOLD_KEY": "mf_x"},
        {"MANIFOLD_MODELS__MNIST_VAE__DEVICE": "cpu", "manifold_port": "80", "OTHER_PROT": "1"},
        {
            "MANIFOLD_SERVICE_HOST": "10.0.0.1", "MANIFOLD_SERVICE_PORT": "80", "MANIFOLD_SERVICE_PORT_HTTP": "80",
            "MANIFOLD_PORT_8000_TCP": "tcp://10.0.0.1:80", "MANIFOLD_PORT_8000_TCP_ADDR": "10.0.0.1", "MANIFOLD_API_PORT": "tcp://10.0.0.1:80",
        },
    ],
)  # fmt: skip
def test_variables_that_are_meant_for_others_are_left_alone(environment: dict[str, str]) -> None:
    check_variables(environment)


def test_whatever_the_compose_file_passes_is_known() -> None:
    check_variables({name: "1" for name in variables() if name.startswith("MANIFOLD_")})


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("prot = 1", r"prot: there is no such setting; did you mean port\?"),
        (
            "[models.foreign]\ndevize = 'cpu'",
            r"models\.foreign\.devize: there is no such setting; did you mean device\?",
        ),
        ("[model.foreign]\ndevice = 'cpu'", r"model: there is no such setting; did you mean models\?"),
        ("port = \n", r"manifold.toml: is not valid TOML \(line 1, column 8\); write one setting on each line"),
        ("zzz = 1", r"zzz: there is no such setting; docs/reference/settings.md lists all settings$"),
        ("workers = true", "workers: an integer is needed, not true"),
        ("rate = false", "rate: a number is needed, not false"),
        ("grpc_port = true", "grpc_port: an integer is needed, not true"),
        ("[models.foreign]\ninstances = true", r"models\.foreign\.instances: an integer is needed, not true"),
        ("traces = 'foo'", "traces: 'foo' is not a URL; write it as http://127.0.0.1:4318/v1/traces"),
        ("traces = 'localhost:4318'", "traces: 'localhost:4318' is not a URL"),
        ("host = '\udcff'", "manifold.toml: is not a text in UTF-8; save it in UTF-8"),
        ("[models]\nforeign = 3", r"models\.foreign"),
    ],
)
def test_keys_of_the_file_that_are_wrong(
    toml: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifold.toml").write_bytes(toml.encode("utf-8", "surrogateescape"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=message):
        settings.read()


def test_every_number_refuses_true() -> None:
    for cls in (Settings, ModelSettings):
        for name, field in cls.model_fields.items():
            if {int, float} & {field.annotation, *get_args(field.annotation)}:
                with pytest.raises(ValidationError, match="is needed, not true"):
                    cls.model_validate({name: True})


def test_files_that_cannot_be_used_are_reported_with_advice(tmp_path: Path) -> None:
    absent, wrong = tmp_path / "absent", tmp_path / "wrong"
    wrong.write_bytes(b"\xff")
    own = trustme.CA().issue_cert("localhost")
    other = trustme.CA().issue_cert("localhost")
    for name, made in (("own", own), ("other", other)):
        made.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        made.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    locked = serialization.load_pem_private_key(own.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )
    (tmp_path / "locked.key").write_bytes(locked)
    security.Certificate(tmp_path / "own.pem", tmp_path / "own.key").check()
    for certificate, key, message in (
        (absent, wrong, "tls_certificate: .*absent cannot be read: No such file or directory; check the path"),
        (wrong, absent, "tls_key: .*absent cannot be read"),
        (wrong, wrong, "one of them is not a valid PEM file.*; give a certificate and its key"),
        (tmp_path / "own.pem", tmp_path / "other.key", "the key is not that of the certificate; give"),
        (tmp_path / "own.pem", tmp_path / "locked.key", "or the key has a password; give"),
    ):
        with pytest.raises(SettingsError, match=message):
            security.Certificate(certificate, key).check()
    for file, message in ((absent, "No such file or directory"), (wrong, "it is not a text in UTF-8")):
        with pytest.raises(
            SettingsError, match=f"cannot be read: {message}; correct MANIFOLD_KEYS_FILE, or write the file"
        ):
            security.read(Settings(keys_file=file))
    with pytest.raises(SettingsError, match=r"'no.such.host.invalid' is not a known address or name; use"):
        ports.check_host(Settings(host="no.such.host.invalid"))


def test_a_misspelt_variable_ends_check_and_start_with_status_2(tmp_path: Path) -> None:
    foreign.write(tmp_path)
    for arguments in (["--check"], []):
        done = subprocess.run(
            [sys.executable, "-m", "manifold.service", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "MANIFOLD_MODELS_DIR": str(tmp_path), "MANIFOLD_DEFAULT_MODEL": "foreign", "MANIFOLD_MAX_ROW": "3"},
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert (
            done.stderr == "settings:\n  MANIFOLD_MAX_ROW: there is no such setting; did you mean MANIFOLD_MAX_ROWS?\n"
        )


def test_the_table_of_settings_has_each_one_with_its_default() -> None:
    rows = re.findall(
        r"^\| (`MANIFOLD_[^|]*) \| ([^|]*)\|", (ROOT / "docs/reference/settings.md").read_text(), re.MULTILINE
    )
    told = dict[str, str]()
    for names, defaults in rows:
        variables, values = re.findall(r"`(\w+)`", names), [value.strip() for value in defaults.split(",")]
        told |= zip(variables, values if len(values) == len(variables) else values * len(variables), strict=True)
    fields = {f"MANIFOLD_{name.upper()}": field.default for name, field in Settings.model_fields.items()}
    del fields["MANIFOLD_MODELS"]  # these settings are sections of manifold.toml
    assert told.keys() == fields.keys()
    stated = {name: default for name, default in fields.items() if default not in (None, "", ())}
    assert {name: told[name] for name in stated} == {name: written(default) for name, default in stated.items()}


def written(default: object) -> str:
    """Return a default as the documentation writes it."""
    return f"{default:g}" if isinstance(default, float) else str(default).lower()
