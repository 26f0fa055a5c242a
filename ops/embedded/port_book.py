"""Which component has which port, and the move to another when a port was lost to a stranger."""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ops.ports import NoFreePort, PortTaken
from ops.embedded.errors import PortsTaken
from ops.ports import START_ATTEMPTS, PortPicker
from ops.embedded.shape import ListenAddress
from ops.embedded.topology_file import replace_file as replace_file
from ops.embedded.topology_file import with_port

Report = Callable[[str], None]


class PortBook:
    """The places of a platform's components, as its topology file has them; components start in parallel.

    Parameters:
        topology: the file.
        picker: picks other ports; None leaves the file as it is.
        changed: what the file said in another way before.
    """

    def __init__(
        self,
        places: Mapping[str, ListenAddress],
        *,
        topology: Path,
        picker: PortPicker | None,
        report: Report,
        changed: Iterable[str] = (),
    ) -> None:
        self._places = dict(places)
        self._topology = topology
        self._picker = picker
        self._report = report
        self._lock = threading.Lock()
        self.moved: set[str] = set(changed)

    def __getitem__(self, component: str) -> int:
        return self._places[component].port

    def __contains__(self, component: str) -> bool:
        return component in self._places

    def start(self, component: str, start: Callable[[int], bool]) -> bool:
        """Call `start` with the component's port; give it another port if a stranger has that one.

        Returns:
            what `start` gave.

        Raises:
            NoFreePort: several ports were lost in a row.
            PortsTaken: the port is lost, and the file is not ours to edit.
        """
        for _ in range(START_ATTEMPTS):
            try:
                return start(self[component])
            except PortTaken as taken:
                self._move(component, taken)
        raise NoFreePort(START_ATTEMPTS)

    def _move(self, component: str, taken: PortTaken) -> None:
        with self._lock:
            old = self._places[component]
            if self._picker is None:
                raise PortsTaken(self._topology, [fault_of(old, taken.holder)]) from taken
            new = self._picker.pick(old.host)
            text = self._topology.read_text(encoding="utf-8")
            replace_file(self._topology, with_port(text, old, new, self._topology))
            self._places[component] = replace(old, port=new)
            self.moved.add(component)
        self._report(f"{component}: port {old.port} is taken by {taken.holder}; moved to port {new}")


def fault_of(place: ListenAddress, holder: str) -> str:
    """Say in a line who has the port that a key of the topology names."""
    key = ".".join(map(str, place.keys[0]))
    return f"{key}: port {place.port} on {place.host} is taken by {holder}: stop that, or name another port"
