"""The order system's own tables of the topology file: where Redis, the models and the services are."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, RootModel, model_validator

from app.kit.admin import AdminAddress
from sharding.topology import Endpoint, Name, Port, Section, Text

if TYPE_CHECKING:
    from sharding.topology import Topology

LOOPBACK = "127.0.0.1"


class Location(Section):
    """Something that is found by a URL."""

    url: Text


class _Administered(Section):
    """What a worker may have, and a service as well."""

    admin_host: Text = LOOPBACK
    admin_port: Port | None = None
    """Where metrics and health are for those who run it; without it, nowhere."""


AUTO: Final = "auto"
MOST_WORKERS: Final = 256
WorkerCount = Literal["auto"] | Annotated[int, Field(strict=True, ge=1, le=MOST_WORKERS)]
"""How many processes a worker is: a number, or as many as cores, memory and queue allow."""


class WorkerSection(_Administered):
    """A worker, which has no API of its own: `[services.NAME]` without a port to listen on."""

    workers: WorkerCount = AUTO


KEEP_DAYS: Final = 730
"""How long a board keeps what has ended, where its section does not say."""


class Service(Endpoint, _Administered):
    """Where a service listens."""

    keep_days: Annotated[int, Field(strict=True, ge=60, le=36_500)] | None = None
    """The board's alone: for so many days it keeps an order that has ended."""

    @property
    def url(self) -> str:
        """The service's base URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def _is_worker(section: object) -> bool:
    return (
        isinstance(section, dict)
        and not section.keys().isdisjoint({"admin_port", "workers"})
        and section.keys().isdisjoint({"host", "port"})
    )


class _Services(RootModel[dict[Name, Service]]):
    root: dict[Name, Service] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _without_workers(cls, given: Any) -> Any:
        return {name: each for name, each in given.items() if not _is_worker(each)}


class _Workers(RootModel[dict[Name, WorkerSection]]):
    root: dict[Name, WorkerSection] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _only_workers(cls, given: Any) -> Any:
        return {name: each for name, each in given.items() if _is_worker(each)}


def redis_url(topology: "Topology", user: str) -> str:
    """Return where Redis is, `[redis] url`, and how a user of it comes in.

    The password is that of `redis_USER`: in MES_STORAGE_PASSWORD_REDIS_<USER>, or in the topology's passfile,
    on the line `*:*:*:redis_USER`. Where there is none, or the URL names a user, it is the URL as it stands.

    Raises:
        TopologyError: the file does not say, or wrongly.
    """
    url = topology.section("redis", Location).url
    name = f"redis_{user}"
    password = topology.password(name) or _password_in_file(topology, name)
    parts = urlsplit(url)
    if password is None or "@" in parts.netloc:
        return url
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{parts.netloc}").geturl()


def _password_in_file(topology: "Topology", name: str) -> str | None:
    """Read a password from the topology's passfile, which is libpq's and has `:` and a backslash escaped."""
    if topology.passfile is None:
        return None
    try:
        lines = (topology.path.parent / topology.passfile).read_text().splitlines()
    except FileNotFoundError:
        return None
    head = f"*:*:*:{name}:"
    found = (line.removeprefix(head) for line in lines if line.startswith(head))
    return next((re.sub(r"\\(.)", r"\1", password) for password in found), None)


class _Access(Section):
    """`[access]`: in a `sandbox` nothing is made in earnest, and its keys are good there alone."""

    sandbox: bool = False


def is_sandbox(topology: "Topology") -> bool:
    """Return whether all of a platform is for trying out: `[access] sandbox = true`."""
    return "access" in topology.sections and topology.section("access", _Access).sandbox


def files_url(topology: "Topology") -> str:
    """Return where the customers' files are: `[files] url`; a path is relative to the topology file.

    Raises:
        TopologyError: the file does not say, or wrongly.
    """
    url = topology.section("files", Location).url
    return url if "://" in url else (topology.path.parent / url).as_uri()


def services_of(topology: "Topology") -> Mapping[str, Service]:
    """Return where the services listen, by name: `[services.NAME]`; none where the file has none.

    Raises:
        TopologyError: one is wrong.
    """
    if "services" not in topology.sections:
        return {}
    return topology.section("services", _Services).root


def has_board(topology: "Topology") -> bool:
    """Return whether there is a board, `[services.board]`: then orders are announced to it."""
    # Asked with each line of a history: the sections are checked where a process begins.
    return "board" in topology.sections.get("services", {})


def board_keeps(topology: "Topology") -> timedelta:
    """Return for how long the board keeps an order that has ended, `[services.board] keep_days`.

    Raises:
        TopologyError: a section is wrong.
    """
    section = services_of(topology).get("board")
    days = None if section is None else section.keep_days
    return timedelta(days=KEEP_DAYS if days is None else days)


def worker_count(topology: "Topology", process: str) -> WorkerCount:
    """Return how many processes a worker is, `[services.NAME] workers`.

    Raises:
        TopologyError: a section is wrong.
    """
    if "services" not in topology.sections:
        return AUTO
    section = topology.section("services", _Workers).root.get(process)
    return AUTO if section is None else section.workers


def admin_address(topology: "Topology", process: str) -> AdminAddress | None:
    """Return where the admin port of a service or a worker is, `[services.NAME] admin_port`, if anywhere.

    Raises:
        TopologyError: a section is wrong.
    """
    if "services" not in topology.sections:
        return None
    workers = topology.section("services", _Workers).root
    section = services_of(topology).get(process) or workers.get(process)
    if section is None or section.admin_port is None:
        return None
    return AdminAddress(section.admin_host, section.admin_port)
