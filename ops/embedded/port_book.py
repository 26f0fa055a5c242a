"""Which component has which port, and the move to another when a port was lost to a stranger."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from ops.embedded.errors import NoFreePort, PortTaken
from ops.embedded.ports import START_ATTEMPTS, PortPicker
from ops.embedded.topology_file import move_port

Report = Callable[[str], None]


class PortBook:
    """The ports of a platform, as its topology file has them; components start in parallel."""

    def __init__(
        self, ports: Mapping[str, int], *, topology: Path, picker: PortPicker, report: Report
    ) -> None:
        self._ports = dict(ports)
        self._topology = topology
        self._picker = picker
        self._report = report
        self._lock = threading.Lock()
        self.moved: set[str] = set()

    def __getitem__(self, component: str) -> int:
        return self._ports[component]

    def __contains__(self, component: str) -> bool:
        return component in self._ports

    def add(self, component: str) -> int:
        """Give a port to a component that is new; whoever has read the topology has read it before."""
        self._ports[component] = self._picker.pick()
        self.moved.add(component)
        return self._ports[component]

    def remove(self, component: str) -> None:
        """Forget a component."""
        self._ports.pop(component, None)
        self.moved.add(component)

    def start(self, component: str, start: Callable[[int], bool]) -> bool:
        """Call `start` with the component's port; give it another port if a stranger has that one.

        Returns:
            what `start` gave.

        Raises:
            NoFreePort: several ports were lost in a row.
        """
        for _ in range(START_ATTEMPTS):
            try:
                return start(self[component])
            except PortTaken as taken:
                self._move(component, taken)
        raise NoFreePort(START_ATTEMPTS)

    def _move(self, component: str, taken: PortTaken) -> None:
        with self._lock:
            old, new = self[component], self._picker.pick()
            move_port(self._topology, old=old, new=new)
            self._ports[component] = new
            self.moved.add(component)
        self._report(f"{component}: port {old} is taken by {taken.holder}; moved to port {new}")
