"""The settings in a process's environment; everything about databases stands in the topology file."""

import atexit
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveInt, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.access.credentials import TokenKeys
from app.access.oidc import OidcOptions, check_url
from app.kit.errors import AppError
from app.kit.logs import LogFile, configure_logging
from app.kit.process import exit_with_fault
from app.kit.telemetry import start_telemetry
from app.log_events import SCHEMA
from app.messaging.signing import parse_peer_keys
from app.topology import MOST_WORKERS, services_of
from readreplica.signing import parse_keys
from sharding.errors import ShardingError
from sharding.topology import Topology

PREFIX = "MES_STORAGE_"
NOTICE_SCHEMES = ("smtp", "smtps", "https", "http")

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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

    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 512
    """how many connections clients may have at once; requests on more are answered by 503"""

    max_requests: PositiveInt = 64
    """how many requests are worked on at once; one more is answered by 503 at once"""

    max_streams: PositiveInt = 8
    """how many streams of events a caller may have open at once in a process; one more is answered by 429"""

    header_seconds: Seconds = 10.0
    """how long a client may take to send the header of a request"""

    body_seconds: Seconds = 20.0
    """how long a client may take to send the body of a request, beside a second for each 16 KiB of it"""

    answer_seconds: Seconds = 30.0
    """how long a client may take to read an answer"""

    idle_seconds: PositiveInt = 60
    """how long a connection may stay open without a request"""

    trusted_proxies: str = ""
    """the addresses or networks of the proxies whose X-Forwarded-For and -Proto are believed, with commas"""

    request_seconds: Seconds = 10.0
    """how long a request may take from the end of its body; after that it is ended, and answered by 503"""

    statement_seconds: Seconds = 5.0
    """how long PostgreSQL may take for one statement, waiting for locks included"""

    queue_seconds: Seconds = 1.0
    """how long a request may wait for a free connection to a database before it is answered by 503"""

    relay_poll_seconds: Seconds = 0.1
    """how long a message may lie in the outbox before the relay sees it"""

    redelivery_seconds: Seconds = 2.0
    """how long the relay waits for an acknowledgement before it sends again; doubled each time"""

    flow_floor_per_second: Seconds = 2.0
    """how many messages in a second each sender may send to the MES at least, unless it is paused"""

    inbox_keep_seconds: Annotated[int, Field(ge=2 * 24 * 3600)] = 7 * 24 * 3600
    """how long what was handled is remembered at least: well beyond the day that a copy of a message lives"""

    inbox_prune_seconds: PositiveInt = 6 * 3600
    """how often what was handled is looked through for what may be forgotten"""

    price_valid_days: Annotated[int, Field(ge=0, le=3650)] = 30
    """how many days a price may be approved; 0 for ever, as while any service runs a release that does not
    know `price_valid_until`"""

    intake_shard_orders: PositiveInt = 1000
    """how many partners' orders may wait on a shard to be placed; one more is answered by 429"""

    intake_orders: PositiveInt = 1500
    """how many partners' orders may wait on all shards, about"""

    webhook_local: bool = False
    """whether webhooks may go by http, and to this machine itself: for trying out alone"""

    flow_pricing_seconds: Seconds = 60.0
    """how long the oldest order may wait for its price before senders are slowed down"""

    flow_requests: Annotated[int, Field(ge=1)] = 48
    """how many requests are worked on at once at most; the limiter finds how many below it are good"""

    pricing_workers: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_WORKERS)] | None = None
    """how many worker processes there are, or auto; without it, as many as the topology file says"""

    pricing_memory_bytes: Annotated[int, Field(ge=512 * 2**20)] = 3 * 2**30
    """the memory that reading and measuring one model may use, of which the libraries use 150 MB"""

    pricing_cpu_seconds: PositiveInt = 60
    """the processor time that measuring one model may take"""

    pricing_wall_seconds: Seconds = 120.0
    """how long measuring one model may take by the clock, whatever else the machine does"""

    pricing_model_bytes: PositiveInt = 64 * 2**20
    """the size of the largest model file that is measured"""

    stop_seconds: PositiveInt = 10
    """how long running requests and messages may take once the service was told to stop"""

    cursor_key: Annotated[SecretStr, Field(min_length=16)] | None = None
    """the secret that signs page cursors; one and the same in every process of the MES"""

    cursor_key_previous: Annotated[SecretStr, Field(min_length=16)] | None = None
    """the secret before it, whose cursors are still taken while the secret is changed"""

    token_keys: SecretStr = SecretStr("")
    """the secrets that sign causal tokens, NAME=SECRET,NAME=SECRET; the first one signs, all are taken"""

    message_keys: SecretStr = SecretStr("")
    """the secrets that this service shares with each other one, PEER:NAME=SECRET,...; of each peer the first
    one signs messages, all are taken"""

    access_keys: SecretStr = SecretStr("")
    """the secrets that sign the tokens of callers, NAME=SECRET,NAME=SECRET, of 32 bytes at least; the first
    one signs, all are taken; without them there are API keys only"""

    identity_stale_seconds: Seconds = 300.0
    """how long the identities that are known stay good while the directory is away"""

    oidc_issuer: str = ""
    """the URL of the OpenID provider where staff log in, as its tokens have it; without it, they log in by
    name and password"""

    oidc_client_id: str = ""
    """what the services are to the OpenID provider"""

    oidc_client_secret: SecretStr = SecretStr("")
    """what they prove it with"""

    oidc_callback: Annotated[str, Field(validate_default=True)] = ""
    """the URL of /v1/oidc/callback, as browsers reach it and as it is registered with the provider; {service}
    in it stands for crm or mes"""

    door_header: str = "X-Gateway-Door"
    """the request header in which the gateway names its door; it is believed from `trusted_proxies` only"""

    notice_url: SecretStr = SecretStr("")
    """where letters to customers go: smtp://host:25, smtps://name:password@host, or https://... for a program
    that gets them as JSON; empty sends none"""

    notice_from: str = "orders@localhost"
    """the sender of those letters"""

    notice_link_base: str = ""
    """where customers find the board, such as https://orders.example.org; empty leaves links out"""

    notice_language: Literal["en", "ru"] = "en"
    """in which customers are written"""

    token_seconds: PositiveInt = 3600
    """how long a browser's cookie and Redis keep a causal token; longer than any replica may be behind"""

    cookie_secure: bool = True
    """whether the cookie with the causal token is sent over TLS only"""

    caller_header: str | None = None
    """the request header in which the gateway names the caller; for callers that keep no token, Redis does"""

    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] | None = None
    """where a collector takes OTLP over HTTP, such as http://127.0.0.1:4318; without it, no spans are made"""

    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """the share of the orders whose spans are sent, from 0 to 1; those of work that failed always are"""

    send_traceparent: bool = True
    """whether messages name the trace in which they were sent; off while any service runs a release that
    does not know `traceparent`"""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """the least severe log line that is written"""

    log_file: Path | None = None
    """the file that log lines go to, which this process alone writes; without it they go to stderr"""

    log_file_bytes: PositiveInt = 10 * 1024 * 1024
    """the size at which the log file is renamed to NAME.1, and a new one begun"""

    log_files_kept: Annotated[int, Field(ge=0, le=1000)] = 3
    """how many older log files are kept"""

    @property
    def log_output(self) -> LogFile | None:
        """The log file, None for stderr."""
        if self.log_file is None:
            return None
        return LogFile(self.log_file, max_bytes=self.log_file_bytes, kept=self.log_files_kept)

    @property
    def proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks of `trusted_proxies`."""
        return tuple(
            ip_network(each) for each in filter(None, map(str.strip, self.trusted_proxies.split(",")))
        )

    def oidc_of(self, service: str) -> OidcOptions | None:
        """Return the OpenID provider where staff of a service log in; None if there is none."""
        if not self.oidc_issuer:
            return None
        return OidcOptions(
            issuer=self.oidc_issuer,
            client_id=self.oidc_client_id,
            client_secret=self.oidc_client_secret.get_secret_value(),
            callback=self.oidc_callback.replace("{service}", service),
        )

    @field_validator("oidc_callback")
    @classmethod
    def _is_whole(cls, callback: str, info: ValidationInfo) -> str:
        if not info.data.get("oidc_issuer"):
            return callback
        check_url(info.data["oidc_issuer"])
        for name in ("oidc_client_id", "oidc_client_secret"):
            value = info.data.get(name)
            if not (value.get_secret_value() if isinstance(value, SecretStr) else value):
                raise ValueError(f"with an OpenID provider {PREFIX}{name.upper()} must be set")
        return check_url(callback)

    @field_validator("notice_url")
    @classmethod
    def _is_a_port(cls, url: SecretStr) -> SecretStr:
        found = urlsplit(url.get_secret_value())
        if url.get_secret_value() and not (found.hostname and found.scheme in NOTICE_SCHEMES):
            raise ValueError(f"it begins with one of {', '.join(NOTICE_SCHEMES)} and ://, and names a host")
        return url

    @field_validator("statement_seconds")
    @classmethod
    def _is_within_the_request(cls, seconds: float, info: ValidationInfo) -> float:
        most = info.data.get("request_seconds", seconds)
        if seconds > most:
            raise ValueError(f"a statement may not take longer than the request, {most:g} s")
        return seconds

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: str) -> str:
        for proxy in filter(None, map(str.strip, proxies.split(","))):
            ip_network(proxy)
        return proxies

    @field_validator("token_keys")
    @classmethod
    def _are_keys(cls, keys: SecretStr) -> SecretStr:
        parse_keys(keys.get_secret_value())
        return keys

    @field_validator("access_keys")
    @classmethod
    def _are_access_keys(cls, keys: SecretStr) -> SecretStr:
        TokenKeys.parse(keys.get_secret_value())
        return keys

    @field_validator("message_keys")
    @classmethod
    def _are_keys_of_peers(cls, keys: SecretStr) -> SecretStr:
        parse_peer_keys(keys.get_secret_value())
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


def configure(process: str) -> tuple[Settings, Topology]:
    """Read settings and topology, set up logs and telemetry; exit with status 2 if something is wrong."""
    try:
        settings = load_settings()
        topology = Topology.load(settings.topology)
        own_services = {f"{each.host}:{each.port}" for each in services_of(topology).values()}
    except (SettingsInvalid, ShardingError) as error:
        exit_with_fault(process, str(error))
    try:
        configure_logging(process, level=settings.log_level, schema=SCHEMA, file=settings.log_output)
    except OSError as error:
        exit_with_fault(process, f"{PREFIX}LOG_FILE: {error.strerror}: {settings.log_file}")
    stop = start_telemetry(
        process,
        otlp_endpoint=settings.otlp_endpoint,
        trace_ratio=settings.trace_ratio,
        own_services=own_services,
    )
    atexit.register(stop)
    return settings, topology
