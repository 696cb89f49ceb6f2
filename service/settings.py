"""Settings from the environment (MANIFOLD_*) and an optional manifold.toml. They are read once in main and passed down."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as UnparsedError

from manifold.runtime.errors import ManifoldError, shown
from manifold.runtime.problems import place, sentence, word
from manifold.service.models import versions

CONFIG_FILE = "manifold.toml"
PAGE = "docs/reference/settings.md"  # the list of all settings
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # addresses to listen on, and one of them to connect to
HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
ENDPOINT = re.compile(r"https?://[^\s/]+")
PREFIX = "MANIFOLD_"
# variables that other parts of Manifold read: training, evaluation, the client, and the tests of the public client
OTHERS = ("MANIFOLD_DATA", "MANIFOLD_CACHE", "MANIFOLD_KEY", "MANIFOLD_PYTHON")
# variables that Kubernetes sets in every container of a namespace with a service called manifold, or manifold-something
LINKS = re.compile(
    r"MANIFOLD_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)|MANIFOLD_\w+_PORT"
)


class SettingsError(ManifoldError):
    """A setting is wrong; the service does not start."""


def _not_true(cls: type[BaseModel], value: Any, info: ValidationInfo) -> Any:
    """Raise ValueError for true or false in place of a number: pydantic reads them as 1 and 0."""
    annotation = cls.model_fields[str(info.field_name)].annotation
    kinds = get_args(annotation) or (annotation,)
    needed = "an integer" if int in kinds else "a number" if float in kinds else None
    if isinstance(value, bool) and needed:
        raise ValueError(f"{needed} is needed, not {word(value)}")
    return value


class ModelSettings(BaseModel):
    """The settings of one model, section [models.NAME] in manifold.toml. By default, the value of the top level applies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["auto", "cpu", "cuda"] | None = Field(default=None, description="Device that runs this model.")
    instances: int | None = Field(
        default=None, ge=1, le=64, description="Largest number of runs of this model at the same time."
    )
    max_rows: int | None = Field(
        default=None, ge=1, description="Largest batch size of a run. Larger requests are split into several runs."
    )
    queue_rows: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of items that may be queued or running. Above it, requests get 429.",
    )
    queue_bytes: int | None = Field(
        default=None, ge=1, description="Largest size of queued model inputs. Above it, requests get 429."
    )
    queue_ms: int | None = Field(
        default=None,
        ge=1,
        description="Longest queueing time allowed. If the estimate is higher, the request gets 429 immediately.",
    )
    deadline_ms: int | None = Field(
        default=None, ge=1, description="Deadline of requests without the header X-Deadline-Ms."
    )
    versions: str | None = Field(
        default=None, description="Versions that can be requested: all, latest, latest N, or version numbers (1 4)."
    )

    _numbers = field_validator("*", mode="before")(classmethod(_not_true))

    @field_validator("versions")
    @classmethod
    def _policy(cls, value: str | None) -> str | None:
        if value is not None:
            versions.parse(value)
        return value


class Settings(BaseSettings):
    """All settings of the service. The environment variable MANIFOLD_HOST sets `host`, and so on."""

    model_config = SettingsConfigDict(
        env_prefix="MANIFOLD_", env_nested_delimiter="__", env_ignore_empty=True, extra="forbid", frozen=True, toml_file=CONFIG_FILE,
    )  # fmt: skip

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port for HTTP. 0: the system chooses a free port.")
    grpc_port: int | None = Field(
        default=None, ge=0, le=65535, description="Port for gRPC. 0 turns gRPC off. By default, the HTTP port plus 1."
    )
    published: str | None = Field(
        default=None,
        description="Address that clients see, if it differs from `host`, such as the published address of a container's port.",
    )
    auth: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether requests need an API key. auto: only if the service listens on an address other than loopback.",
    )
    keys: str = Field(
        default="",
        description="API keys: entries NAME:SCOPES:SHA256[:RATE], separated by spaces, as `manifold key` prints them.",
    )
    keys_file: Path | None = Field(
        default=None, description="File of API keys, one entry on each line. SIGHUP reads it again."
    )
    rate: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Request rate allowed for a key whose entry states none. 0: no limit.",
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file with the certificate and its chain, for HTTP and gRPC."
    )
    tls_key: Path | None = Field(default=None, description="PEM file with the key of the certificate.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origins whose web pages may send requests, separated by spaces. `*`: any origin."
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Without API keys: host names that are answered beside localhost and the service's own addresses, separated by spaces. `*`: any name.",
    )
    trust_loopback: bool = Field(
        default=False, description="Without API keys: whether admin routes accept requests from this machine."
    )
    models_dir: Path = Field(default=Path("models"), description="Folder of the models: NAME/VERSION/manifest.json.")
    require_checksums: bool = Field(
        default=False, description="Whether models without checksums in their manifest are refused."
    )
    versions: str = Field(
        default="all",
        description="Versions of each model that can be requested: all, latest, latest N, or version numbers (1 4).",
    )
    lazy: bool = Field(default=False, description="Whether models load at their first request and not at the start.")
    memory_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Memory limit for loaded models. Above it, the least recently used models are unloaded. Implies `lazy`.",
    )
    watch_seconds: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Interval between checks of the folder of models for changes. 0: no checks.",
    )
    default_model: str | None = Field(default="mnist-vae", description="Model of requests that name none.")
    strict_ready: bool = Field(
        default=False,
        description="Whether /health/ready waits for every model. Otherwise the default model decides, or any model if there is no default.",
    )
    workers: int = Field(
        default=1, ge=1, le=64, description="Number of worker processes, on CPUs. They share the port."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device that runs the models. auto: a CUDA GPU if there is one, otherwise the CPU."
    )
    instances: int = Field(default=1, ge=1, le=64, description="Largest number of runs of one model at the same time.")
    threads: int = Field(default=1, ge=1, le=256, description="Threads used within a run.")
    max_rows: int = Field(
        default=256, ge=1, description="Largest batch size of a run. Larger requests are split into several runs."
    )
    queue_rows: int = Field(
        default=4096,
        ge=1,
        description="Largest number of items of one model that may be queued or running. Above it, requests get 429.",
    )
    queue_bytes: int = Field(
        default=256 * 2**20,
        ge=1,
        description="Largest size of the queued inputs of one model. Above it, requests get 429.",
    )
    queue_ms: int | None = Field(
        default=None,
        ge=1,
        description="Longest queueing time allowed. If the estimate is higher, the request gets 429 immediately. By default, the deadline of the request.",
    )
    deadline_ms: int = Field(
        default=30_000,
        ge=1,
        description="Deadline of requests without the header X-Deadline-Ms. Work that has not started by then is dropped (504).",
    )
    max_items: int = Field(
        default=1024, ge=1, description="Largest number of rows or images in a request. Above it, 413."
    )
    max_stream_items: int = Field(
        default=65_536, ge=1, description="Largest number of samples in a streamed response. Above it, 413."
    )
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024, description="Largest request body. Above it, 413.")
    max_upload_bytes: int = Field(default=4 * 2**30, ge=1024, description="Largest file of rows. Above it, 413.")
    max_pixels: int = Field(
        default=16_000_000, ge=1, description="Largest number of pixels of one image. It is checked before decoding."
    )
    max_bodies_bytes: int = Field(
        default=2**30,
        ge=2**20,
        description="Largest size of all request bodies being received or processed, over HTTP and gRPC. Above it, 429.",
    )
    max_connections: int = Field(
        default=4096,
        ge=1,
        description="Largest number of HTTP connections (above it, 503), and of gRPC connections (above it, they are closed).",
    )
    max_calls: int = Field(
        default=4096, ge=1, description="Largest number of requests being processed, over HTTP and gRPC. Above it, 429."
    )
    receive_seconds: float = Field(
        default=20.0,
        gt=0,
        description="Longest time to receive the head of a request, or to wait for the next bytes of its body (408). gRPC: for each message.",
    )
    send_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Longest time in which a client reads nothing of a response. Then its connection ends.",
    )
    drain_seconds: float = Field(
        default=10.0, ge=0, description="Time that requests in flight get to finish after a signal to stop."
    )
    notice_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Time after a signal to stop in which the service reports not-ready but accepts requests, so that load balancers notice.",
    )
    hang_seconds: float = Field(
        default=10.0,
        ge=2,
        allow_inf_nan=False,
        description="Time without an answer after which a worker process is killed and replaced; ten times as long if it uses the processor.",
    )
    command_seconds: float = Field(
        default=120.0,
        ge=1,
        allow_inf_nan=False,
        description="Time limit for all worker processes to load or unload a model, or to reload keys. Then the response names those that did not.",
    )
    traces: str = Field(
        default="",
        description="OTLP endpoint over HTTP that receives traces, such as http://127.0.0.1:4318/v1/traces. It needs the extra `tracing`.",
    )
    log_format: Literal["json", "text"] = Field(default="text", description="Format of log lines on stderr.")
    log_requests: bool = Field(default=False, description="Whether every request is logged.")
    models: dict[str, ModelSettings] = Field(
        default_factory=dict, description="Settings of single models: sections [models.NAME] in manifold.toml."
    )

    _numbers = field_validator("*", mode="before")(classmethod(_not_true))

    @field_validator("traces")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        if value and not ENDPOINT.match(value):
            raise ValueError(f"{shown(value)} is not a URL; write it as http://127.0.0.1:4318/v1/traces")
        return value

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
                raise ValueError(
                    f"{shown(name)} is not a host name or an IP address; write it without scheme, port and path"
                )
        return value

    @model_validator(mode="after")
    def _both(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key: only one of them is set; set both or neither")
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource, file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """Return the sources by precedence: arguments, then the environment, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def rpc_port(self) -> int:
        """The port of gRPC; 0 if it is off."""
        if self.grpc_port is not None:
            return self.grpc_port
        return self.port + 1 if 0 < self.port < 65535 else 0

    @property
    def url(self) -> str:
        """The address of the page, as a browser on this machine opens it."""
        host = ANYWHERE.get(self.host, self.host)
        scheme = "http" if self.tls_certificate is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}/"

    @property
    def lazily(self) -> bool:
        """True if models load at their first request: if the settings say so, or if not all models may fit into memory."""
        return self.lazy or self.memory_bytes is not None

    @property
    def authenticated(self) -> bool:
        """True if requests need a key."""
        return self.auth == "on" or (self.auth == "auto" and not is_loopback(self.published or self.host))

    def of_model(self, name: str) -> ModelSettings:
        """Return all settings of a model: its own, and those of the top level for the rest."""
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


def nearest(name: str, names: Collection[str]) -> str:
    """Return the end of an error message that suggests the nearest of the valid names, or nothing."""
    begun = [each for each in names if each.startswith(name)]
    if len(begun) == 1 and name != PREFIX:
        return f"; did you mean {begun[0]}?"
    cutoff = 0.78 if name.startswith(PREFIX) else 0.6  # names with the prefix are half alike already
    near = difflib.get_close_matches(name, list(names), 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def _no_such(name: str, names: Collection[str]) -> str:
    """Return what to do about an unknown setting."""
    return f"there is no such setting{nearest(name, names) or f'; {PAGE} lists all settings'}"


def check_variables(environment: Mapping[str, str]) -> None:
    """Raise SettingsError for variables with the prefix of the settings that name no setting. Empty variables are ignored."""
    known = [*(PREFIX + name.upper() for name in Settings.model_fields), *OTHERS]
    unknown = [
        name for name, value in environment.items()
        if name.upper().startswith(PREFIX) and value and name.upper() not in known and not _is_nested(name) and not _is_link(name, value)
    ]  # fmt: skip
    if unknown:
        lines = [f"  {name}: {_no_such(name.upper(), known)}" for name in sorted(unknown)]
        raise SettingsError("\n".join(["settings:", *lines]), field="settings")


def _is_nested(name: str) -> bool:
    """Return whether a variable is MANIFOLD_MODELS__NAME__KEY, whose parts are checked with the settings."""
    return name.upper().startswith(f"{PREFIX}MODELS__")


def _is_link(name: str, value: str) -> bool:
    return bool(LINKS.fullmatch(name)) and (
        not name.endswith("_PORT") or name.endswith("_SERVICE_PORT") or "://" in value
    )


def read(**overrides: object) -> Settings:
    """Return the settings. Raise SettingsError that lists every wrong setting."""
    check_variables(os.environ)
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [f"  {_complaint(problem)}" for problem in error.errors()]
    except UnparsedError as error:  # a variable of a setting with several values, such as MANIFOLD_MODELS
        name = next(iter(re.findall(r'"(\w+)"', str(error))), "models")
        lines = [f"  {name}: {PREFIX}{name.upper()} is not valid JSON; use a section of {CONFIG_FILE} instead"]
    except UnicodeDecodeError:
        raise SettingsError(f"{CONFIG_FILE}: is not a text in UTF-8; save it in UTF-8") from None
    except TOMLDecodeError as error:
        place = re.search(r"at (.+)\)$", str(error))
        raise SettingsError(
            f"{CONFIG_FILE}: is not valid TOML{f' ({place[1]})' if place else ''}; write one setting on each line, such as port = 8000 or "
            'device = "cpu"'
        ) from None
    except OSError as error:
        raise SettingsError(f"{CONFIG_FILE}: cannot be read: {error.strerror}; check its permissions") from None
    raise SettingsError("\n".join(["settings:", *lines]))


def _complaint(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a setting, and where it can be set. The value of `keys` is not repeated: it may be a token."""
    path = [str(part) for part in problem["loc"]]
    if not path:
        return sentence(problem)
    message = sentence(problem, secret=path[0] == "keys")
    if problem["type"] == "extra_forbidden":
        fields = ModelSettings.model_fields if path[0] == "models" and len(path) > 1 else Settings.model_fields
        return f"{place(problem['loc'])}: {_no_such(path[-1], fields)}"
    names = [part for part in path if not part.isdecimal()]  # a variable holds the whole of a list
    return f"{place(problem['loc'])}: {message} (set it with MANIFOLD_{'__'.join(names).upper()} or in {CONFIG_FILE})"
