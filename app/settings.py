"""What the environment tells a service; everything about databases stands in the topology file."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.causality.wire import parse_keys
from app.errors import AppError

PREFIX = "MES_STORAGE_"


class SettingsInvalid(AppError):
    """An environment variable is missing or has a value that makes no sense; one line per fault."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class Settings(BaseSettings):
    """Read from environment variables with the prefix `MES_STORAGE_`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, use_attribute_docstrings=True)

    topology: Path
    """the path of the topology file, such as .platform/topology.toml"""

    max_upload_bytes: PositiveInt = 20 * 1024 * 1024
    """the size of the largest 3D model that is accepted"""

    max_json_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    """the size of the largest body that is no file"""

    request_seconds: PositiveFloat = 10.0
    """how long a request may take from the end of its body; after that it is ended, and answered by 503"""

    statement_seconds: PositiveFloat = 5.0
    """how long PostgreSQL may take for one statement, waiting for locks included"""

    queue_seconds: PositiveFloat = 1.0
    """how long a request may wait for a free connection to a database before it is answered by 503"""

    relay_poll_seconds: PositiveFloat = 0.1
    """how long a message may lie in the outbox before the relay sees it"""

    redelivery_seconds: PositiveFloat = 2.0
    """how long the relay waits for an acknowledgement before it sends again; doubled each time"""

    inbox_keep_seconds: Annotated[int, Field(ge=2 * 24 * 3600)] = 7 * 24 * 3600
    """how long what was handled is remembered at least: well beyond the day that a copy of a message lives"""

    inbox_prune_seconds: PositiveInt = 6 * 3600
    """how often what was handled is looked through for what may be forgotten"""

    stop_seconds: PositiveInt = 10
    """how long running requests and messages may take once the service was told to stop"""

    cursor_key: Annotated[SecretStr, Field(min_length=16)] | None = None
    """the secret that signs page cursors; one and the same in every process of the MES"""

    cursor_key_previous: Annotated[SecretStr, Field(min_length=16)] | None = None
    """the secret before it, whose cursors are still taken while the secret is changed"""

    token_keys: SecretStr = SecretStr("")
    """the secrets that sign causal tokens, NAME=SECRET,NAME=SECRET; the first one signs, all are taken"""

    token_seconds: PositiveInt = 3600
    """how long a browser's cookie and Redis keep a causal token; longer than any replica may be behind"""

    cookie_secure: bool = True
    """whether the cookie with the causal token is sent over TLS only"""

    caller_header: str | None = None
    """the request header in which the gateway names the caller; for callers that keep no token, Redis does"""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """the least severe log line that is written"""

    @field_validator("token_keys")
    @classmethod
    def _are_keys(cls, keys: SecretStr) -> SecretStr:
        parse_keys(keys.get_secret_value())
        return keys


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsInvalid: names each variable and what is wrong with it.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsInvalid(
            [_fault(str(fault["loc"][0]), fault["type"], fault["msg"]) for fault in error.errors()]
        ) from None


def _fault(field: str, kind: str, message: str) -> str:
    variable = f"{PREFIX}{field.upper()}"
    if kind == "missing":
        return f"{variable} is not set: it must be {Settings.model_fields[field].description}"
    return f"{variable}: {message[:1].lower()}{message[1:]}"
