# Generated from readreplica/discovery.py by `make sync`: change that file, not this one.
"""Finds the nodes of a cluster where they are announced: in DNS, by Patroni, or by what else names them.

It only adds. A node that is gone is ejected by the monitor, and so is one whose address has gone to another
cluster: its system identifier is another.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from sqlalchemy import Engine

from readreplica.addresses import Address
from readreplica.errors import NothingDiscovered
from readreplica.sync.cluster import Cluster
from readreplica.sync.concurrency import BackgroundThread, Event, resolve_name, resolve_services, wait_for

log = logging.getLogger("readreplica")

AddressSource: TypeAlias = Callable[[], Sequence[Address]]
"""Returns the addresses that are announced now; raises NothingDiscovered or OSError."""


def addresses_of(name: str, *, port: int) -> Sequence[Address]:
    """Return the addresses that DNS has for a name (A and AAAA records), as the system's resolver does.

    Raises:
        NothingDiscovered: there is no such name, or it has no address.
    """
    try:
        hosts = resolve_name(name, port)
    except OSError as error:
        raise NothingDiscovered(f"DNS name {name}", str(error)) from error
    return [Address(host, port) for host in dict.fromkeys(hosts)]


def services_of(
    name: str, *, timeout_seconds: float = 5.0, nameserver: tuple[str, int] | None = None
) -> Sequence[Address]:
    """Return the hosts and ports that DNS has for a service (SRV records), as `_postgresql._tcp.db.example`.

    Parameters:
        name: the service's name.
        timeout_seconds: how long DNS is asked, with every try.
        nameserver: the address and port of the server to ask; the system's ones by default.

    Raises:
        NothingDiscovered: there is no such record, or no server answered in time.
        MissingExtra: dnspython is not installed.
    """
    try:
        found = resolve_services(name, timeout_seconds=timeout_seconds, nameserver=nameserver)
    except OSError as error:
        raise NothingDiscovered(f"DNS service {name}", str(error)) from error
    return [Address(host, port) for host, port in dict.fromkeys(found)]


class Discovery:
    """Reads a source again and again, and adds what is new to a cluster."""

    def __init__(
        self,
        cluster: Cluster,
        source: AddressSource,
        *,
        make_reader: Callable[[Address], Engine],
        every_seconds: float = 30.0,
    ) -> None:
        """Prepare to read; `start` begins, `refresh` reads once.

        Parameters:
            cluster: what nodes are added to.
            source: where they are announced.
            make_reader: returns a reader engine for an address; the cluster disposes it.
            every_seconds: how often the source is read.
        """
        self._cluster = cluster
        self._source = source
        self._make_reader = make_reader
        self._every_seconds = every_seconds
        self._stopping = Event()
        self._background = BackgroundThread(self._run, name=f"discovery of {cluster.name}")

    def start(self) -> None:
        """Begin to read."""
        self._background.start()

    def stop(self) -> None:
        """End reading."""
        self._stopping.set()
        self._background.stop()

    def refresh(self) -> Sequence[Address]:
        """Read once, and return what was added.

        Raises:
            NothingDiscovered: the source named nothing; the nodes known before stay.
        """
        try:
            announced = self._source()
        except OSError as error:
            raise NothingDiscovered("the source of addresses", str(error)) from error
        known = self._cluster.addresses()
        added = [address for address in dict.fromkeys(announced) if str(address) not in known]
        for address in added:
            self._cluster.add_replica(str(address), self._make_reader(address))
        return added

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                added = self.refresh()
                if added:
                    log.info(
                        "nodes found",
                        extra={"cluster": self._cluster.name, "nodes": [str(each) for each in added]},
                    )
            except NothingDiscovered as error:
                log.warning("no nodes found", extra={"cluster": self._cluster.name, "error": str(error)})
            except Exception as error:
                # An HTTP client's own error is no OSError. Any error may be gone at the next time.
                log.warning("no nodes found", extra={"cluster": self._cluster.name, "error": repr(error)})
            wait_for(self._stopping, timeout_seconds=self._every_seconds)
