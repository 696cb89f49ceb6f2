"""Settings from the environment (MANIFOLD_*) and an optional manifold.toml; read once in main and passed down."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from manifold.runtime.errors import ManifoldError
from manifold.service.models import versions

CONFIG_FILE = "manifold.toml"
HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
PREFIX = "MANIFOLD_"
# variables that other parts of Manifold read: training, evaluation, the client, and the tests of the public client
OTHERS = ("MANIFOLD_DATA", "MANIFOLD_CACHE", "MANIFOLD_KEY", "MANIFOLD_PYTHON")
# variables that Kubernetes sets in every container of a namespace with a service called manifold, or manifold-something
LINKS = re.compile(
    r"MANIFOLD_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)|MANIFOLD_\w+_PORT"
)


class SettingsError(ManifoldError):
    """A setting is wrong; the service does not start."""


class ModelSettings(BaseModel):
    """One model's section, [models.NAME] in manifold.toml. What is left out comes from the top level."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["auto", "cpu", "cuda"] | None = None
    instances: int | None = Field(default=None, ge=1, le=64, description="runs of this model at the same time")
    max_rows: int | None = Field(default=None, ge=1, description="rows a run; more are run in pieces")
    queue_rows: int | None = Field(default=None, ge=1, description="rows accepted and not yet answered; beyond it 429")
    queue_bytes: int | None = Field(default=None, ge=1, description="of their inputs; beyond it 429")
    queue_ms: int | None = Field(
        default=None, ge=1, description="wait that is accepted; beyond it, or the deadline, 429"
    )
    deadline_ms: int | None = Field(default=None, ge=1, description="for requests that bring none")
    versions: str | None = Field(default=None, description="that may be asked for: all, latest, latest N, or N M ...")

    @field_validator("versions")
    @classmethod
    def _policy(cls, value: str | None) -> str | None:
        if value is not None:
            versions.parse(value)
        return value


class Settings(BaseSettings):
    """Everything that can be set. MANIFOLD_HOST sets `host`, and so on."""

    model_config = SettingsConfigDict(
        env_prefix="MANIFOLD_", env_nested_delimiter="__", env_ignore_empty=True, extra="forbid", frozen=True, toml_file=CONFIG_FILE,
    )  # fmt: skip

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    grpc_port: int | None = Field(default=None, ge=0, le=65535, description="port + 1 where left out; 0 is off")
    published: str | None = Field(
        default=None,
        description="the address that others see, where it is not `host`: a container's port is published there",
    )
    auth: Literal["auto", "on", "off"] = Field(
        default="auto", description="API keys: auto asks for them where the service listens beyond loopback"
    )
    keys: str = Field(default="", description="NAME:SCOPES:SHA256[:RATE], with spaces in between")
    keys_file: Path | None = Field(default=None, description="the same, a line each")
    rate: float = Field(
        default=0, ge=0, allow_inf_nan=False, description="requests/s of a key that states none; 0: no limit"
    )
    tls_certificate: Path | None = Field(default=None, description="PEM, with the chain; for HTTP and gRPC")
    tls_key: Path | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="origins whose pages may ask, with spaces in between"
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="host names that are answered where no key is asked for, beside localhost, with spaces in between; * is any",
    )
    trust_loopback: bool = Field(
        default=False, description="admin routes answer requests from this machine where no key is asked for"
    )
    models_dir: Path = Path("models")
    require_checksums: bool = Field(default=False, description="models whose manifest has no checksums are not served")
    versions: str = Field(
        default="all", description="of each model, that may be asked for: all, latest, latest N, or N M ..."
    )
    lazy: bool = Field(default=False, description="models load when they are first asked for, not at the start")
    memory_bytes: int | None = Field(
        default=None,
        ge=1,
        description="of the graphs of all models that are loaded; beyond it those not asked for for longest go",
    )
    watch_seconds: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="between looks at the folder of models for what has changed; 0: none",
    )
    default_model: str | None = "mnist-vae"
    strict_ready: bool = Field(
        default=False,
        description="the service is ready when every model is; else the default model, or any where there is no default",
    )
    workers: int = Field(default=1, ge=1, le=64, description="processes that serve as one, on CPUs")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    instances: int = Field(default=1, ge=1, le=64)
    threads: int = Field(default=1, ge=1, le=256, description="threads within a run")
    max_rows: int = Field(default=256, ge=1)
    queue_rows: int = Field(default=4096, ge=1)
    queue_bytes: int = Field(default=256 * 2**20, ge=1)
    queue_ms: int | None = Field(default=None, ge=1)
    deadline_ms: int = Field(default=30_000, ge=1)
    max_items: int = Field(default=1024, ge=1, description="rows or images a request")
    max_stream_items: int = Field(default=65_536, ge=1, description="samples of a request that streams them")
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    max_upload_bytes: int = Field(default=4 * 2**30, ge=1024, description="of a file of rows")
    max_pixels: int = Field(default=16_000_000, ge=1, description="of one image")
    max_bodies_bytes: int = Field(default=2**30, ge=2**20, description="of all bodies that are being received")
    max_connections: int = Field(
        default=4096, ge=1, description="over HTTP, and as many over gRPC; HTTP answers 503 beyond it, gRPC closes them"
    )
    max_calls: int = Field(
        default=4096, ge=1, description="requests in work at once, over HTTP and gRPC together; beyond it 429"
    )
    receive_seconds: float = Field(
        default=20.0, gt=0, description="for the head of a request, and without anything of its body"
    )
    send_seconds: float = Field(default=60.0, gt=0, description="without the client taking anything of an answer")
    drain_seconds: float = Field(
        default=10.0, ge=0, description="for requests in flight when the service is told to stop"
    )
    notice_seconds: float = Field(
        default=0.0, ge=0, description="told to stop, not ready, but still serving: for load balancers to notice"
    )
    hang_seconds: float = Field(
        default=10.0,
        ge=2,
        allow_inf_nan=False,
        description="a worker process that does not answer for so long is killed and started again; ten times as long if it uses the processor",
    )
    command_seconds: float = Field(
        default=120.0,
        ge=1,
        allow_inf_nan=False,
        description="for all worker processes to load or unload a model, or to read keys again; then the answer names those that did not",
    )
    traces: str = Field(
        default="",
        description="where spans go, an OTLP endpoint over HTTP: http://127.0.0.1:4318/v1/traces; needs the extra tracing",
    )
    log_format: Literal["json", "text"] = "text"
    log_requests: bool = Field(default=False, description="a line for each request")
    models: dict[str, ModelSettings] = Field(default_factory=dict)

    @field_validator("versions")
    @classmethod
    def _policy(cls, value: str) -> str:
        versions.parse(value)
        return value

    @field_validator("cors_origins", "hosts", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("hosts")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name != "*" and not HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a host name or an IP address; leave scheme, port and path out")
        return value

    @model_validator(mode="after")
    def _both(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key: both are needed, or neither")
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource, file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """Arguments win over the environment, the environment over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def rpc_port(self) -> int:
        """The port of gRPC; 0 if it is off."""
        if self.grpc_port is not None:
            return self.grpc_port
        return self.port + 1 if 0 < self.port < 65535 else 0

    @property
    def lazily(self) -> bool:
        """True if models load when they are asked for: if the settings say so, or if not all of them may fit."""
        return self.lazy or self.memory_bytes is not None

    @property
    def authenticated(self) -> bool:
        """True if requests need a key."""
        return self.auth == "on" or (self.auth == "auto" and not is_loopback(self.published or self.host))

    def of_model(self, name: str) -> ModelSettings:
        """The model's settings with nothing left out."""
        own = self.models.get(name, ModelSettings())
        return ModelSettings(
            **{
                key: getattr(own, key) if getattr(own, key) is not None else getattr(self, key)
                for key in ModelSettings.model_fields
            }
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach that address. A name other than localhost may be anything."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the end of an error message that suggests the nearest of the valid names, or nothing."""
    cutoff = 0.78 if name.startswith(PREFIX) else 0.6  # names with the prefix are half alike already
    near = difflib.get_close_matches(name, list(names), 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def check_variables(environment: Mapping[str, str]) -> None:
    """Raise SettingsError for variables that begin as the settings' do and set nothing. Empty ones are ignored, as empty settings are."""
    known = [*(PREFIX + name.upper() for name in Settings.model_fields), *OTHERS]
    unknown = [
        name for name, value in environment.items()
        if name.upper().startswith(PREFIX) and value and name.upper() not in known and not _is_nested(name) and not _is_link(name, value)
    ]  # fmt: skip
    if unknown:
        lines = [f"  {name}: there is no such setting{nearest(name.upper(), known)}" for name in sorted(unknown)]
        raise SettingsError("\n".join(["settings:", *lines]), field="settings")


def _is_nested(name: str) -> bool:
    """Return whether a variable is MANIFOLD_MODELS__NAME__KEY, whose parts are checked with the settings."""
    return name.upper().startswith(f"{PREFIX}MODELS__")


def _is_link(name: str, value: str) -> bool:
    return bool(LINKS.fullmatch(name)) and (
        not name.endswith("_PORT") or name.endswith("_SERVICE_PORT") or "://" in value
    )


def read(**overrides: object) -> Settings:
    """Return the settings. Raises SettingsError that names what is wrong."""
    check_variables(os.environ)
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(
            "\n".join(["settings:", *(f"  {_complaint(problem)}" for problem in error.errors())])
        ) from None
    except ValueError as error:  # a toml file that is not toml
        raise SettingsError(f"{CONFIG_FILE}: {error}") from None


def _complaint(problem: Mapping[str, Any]) -> str:
    path, message = [str(part) for part in problem["loc"]], str(problem["msg"]).removeprefix("Value error, ")
    if not path:
        return message
    if problem["type"] == "extra_forbidden":
        fields = ModelSettings.model_fields if path[0] == "models" and len(path) > 1 else Settings.model_fields
        message = f"there is no such setting{nearest(path[-1], fields)}"
    return f"{'.'.join(path)}: {message} (environment MANIFOLD_{'__'.join(path).upper()} or {CONFIG_FILE})"
