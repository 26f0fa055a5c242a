"""`[pages]` of the topology file: where the DBA's pages listen, and under which names."""

from typing import Annotated

from pydantic import Field

from sharding.topology import Port, Section, Text, Topology


class PagesSection(Section):
    """They listen on loopback; without a port they are not run by `mesctl up`.

    `names` are the host names by which a proxy or the gateway reaches them, beside those of loopback: a
    request for another name is refused (DNS rebinding). `title` is the name of the platform on the page.
    """

    port: Port | None = None
    names: tuple[Text, ...] = ()
    title: Annotated[str, Field(max_length=60)] = ""


def pages_of(topology: Topology) -> PagesSection:
    """Return the section; without one in the file, one without a port.

    Raises:
        TopologyError: it is wrong.
    """
    if "pages" not in topology.sections:
        return PagesSection()
    return topology.section("pages", PagesSection)
