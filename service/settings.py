"""Settings from the environment (MANIFOLD_*) and an optional manifold.toml; read once in main and passed down."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from runtime.errors import ManifoldError

CONFIG_FILE = "manifold.toml"


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


class Settings(BaseSettings):
    """Everything that can be set. MANIFOLD_HOST sets `host`, and so on."""

    model_config = SettingsConfigDict(
        env_prefix="MANIFOLD_", env_nested_delimiter="__", extra="forbid", frozen=True, toml_file=CONFIG_FILE
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    grpc_port: int | None = Field(default=None, ge=0, le=65535, description="port + 1 where left out; 0 is off")
    models_dir: Path = Path("models")
    default_model: str | None = "mnist-vae"
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
    drain_seconds: float = Field(
        default=10.0, ge=0, description="for requests in flight when the service is told to stop"
    )
    notice_seconds: float = Field(
        default=0.0, ge=0, description="told to stop, not ready, but still serving: for load balancers to notice"
    )
    log_format: Literal["json", "text"] = "text"
    log_requests: bool = Field(default=False, description="a line for each request")
    models: dict[str, ModelSettings] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource, file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """Arguments win over the environment, the environment over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def rpc_port(self) -> int:
        """Where gRPC listens; 0 where it does not."""
        if self.grpc_port is not None:
            return self.grpc_port
        return self.port + 1 if 0 < self.port < 65535 else 0

    def of_model(self, name: str) -> ModelSettings:
        """The model's settings with nothing left out."""
        own = self.models.get(name, ModelSettings())
        return ModelSettings(
            **{
                key: getattr(own, key) if getattr(own, key) is not None else getattr(self, key)
                for key in ModelSettings.model_fields
            }
        )


def read(**overrides: object) -> Settings:
    """The settings. Raises SettingsError that names what is wrong."""
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, problem['loc']))}: {problem['msg']} (environment MANIFOLD_{'__'.join(map(str, problem['loc'])).upper()} or {CONFIG_FILE})"
            for problem in error.errors()
        ]
        raise SettingsError("\n".join(["settings:", *lines])) from None
    except ValueError as error:  # a toml file that is not toml
        raise SettingsError(f"{CONFIG_FILE}: {error}") from None
