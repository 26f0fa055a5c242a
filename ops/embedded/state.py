"""How the platform is, component by component. What is found is put here; what it means is decided here."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["primary", "replica", "valkey", "pooler", "service"]
# A service must not lose its database, nor a primary wait for its replica.
STOP_ORDER: tuple[Kind, ...] = ("service", "pooler", "replica", "primary", "valkey")
State = Literal["running", "streaming", "stopped", "absent", "faulty", "elsewhere"]


@dataclass(frozen=True)
class ComponentState:
    """A component as it was found. `wanted` says whether it should run."""

    name: str
    kind: Kind
    state: State
    wanted: bool
    pid: int | None = None
    port: int | None = None
    lag_bytes: int | None = None
    detail: str = ""
    should_port: int | None = None
    """The port that the topology has for it; None if it has none."""

    @property
    def title(self) -> str:
        """Name and kind: a service and a primary may have the same name."""
        return f"{self.kind} {self.name}" if self.name != self.kind else self.name

    @property
    def is_stopped(self) -> bool:
        """Whether it does not run."""
        return self.state in {"stopped", "absent"}

    @property
    def is_misplaced(self) -> bool:
        """Whether it runs on another port than the topology has for it."""
        return (
            not self.is_stopped
            and None not in (self.port, self.should_port)
            and self.port != self.should_port
        )

    @property
    def is_wrong(self) -> bool:
        """Whether it should run and does not, or does not do its work."""
        return self.state == "faulty" or (self.wanted and self.is_stopped)


@dataclass(frozen=True)
class PlatformState:
    """All components, and what was understood from the topology, its passwords masked."""

    home: str
    components: tuple[ComponentState, ...]
    topology: dict[str, Any] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether everything that should run does."""
        return not any(component.is_wrong for component in self.components)

    def as_json(self) -> dict[str, Any]:
        """Return what `mesctl status --json` prints."""
        return {"ok": self.is_right, **asdict(self)}


def steps_up(components: Iterable[ComponentState], *, services: bool) -> list[str]:
    """Return what `up` would start, in its order."""
    verbs = {"absent": "create and start", "stopped": "start"}
    return [
        f"{verbs[component.state]} {component.title}"
        if component.is_stopped
        else f"restart {component.title} on port {component.should_port}"
        for component in components
        if component.is_misplaced or (component.is_stopped and (services or component.kind != "service"))
    ]


def steps_down(components: Iterable[ComponentState]) -> list[str]:
    """Return what `down` would stop, in its order."""
    running = [component for component in components if not component.is_stopped]
    return [
        f"stop {component.title} (pid {component.pid})"
        for kind in STOP_ORDER
        for component in running
        if component.kind == kind
    ]
