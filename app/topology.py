"""The order system's own tables of the topology file: where Redis, the models and the services are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field, RootModel

from sharding.section import Endpoint, Name, Section, Text

if TYPE_CHECKING:
    from sharding.topology import Topology


class Location(Section):
    """Something that is found by a URL."""

    url: Text


class Service(Endpoint):
    """Where a service listens."""

    @property
    def url(self) -> str:
        """The service's base URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class _Services(RootModel[dict[Name, Service]]):
    root: dict[Name, Service] = Field(default_factory=dict)


def redis_url(topology: "Topology") -> str:
    """Return where Redis is: `[redis] url`.

    Raises:
        TopologyError: the file does not say, or wrongly.
    """
    return topology.section("redis", Location).url


def files_url(topology: "Topology") -> str:
    """Return where the customers' files are: `[files] url`; a path is a folder, told from the topology file.

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
