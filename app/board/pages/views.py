"""What the pages show of an order: values of the read side, joined and named for a reader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from app.board.pages.rendering import Viewer
from app.kit.caller import Role
from app.models.status import Channel, Status


def _marked(text: str) -> str:
    return text


_ = _marked

NEXT: Mapping[Status, Status] = {
    Status.MANUFACTURING_STARTED: Status.MANUFACTURING_COMPLETED,
    Status.MANUFACTURING_COMPLETED: Status.PACKAGING,
    Status.PACKAGING: Status.SHIPPED,
}
"""The next step of an operator's work."""
_NEXT_NAMES: Mapping[Status, str] = {
    Status.MANUFACTURING_COMPLETED: _("Mark as made"),
    Status.PACKAGING: _("Begin to pack"),
    Status.SHIPPED: _("Mark as shipped"),
}
_STEPS = (*NEXT, Status.SHIPPED)
_LONG_WAIT = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True)
class Card:
    """An order in a list."""

    order_id: int
    status: Status
    channel: Channel
    title: str
    who: str
    price: Decimal | None
    since: datetime
    material: str | None = None
    finish: str | None = None
    operator: str | None = None
    reason: str | None = None
    ends: datetime | None = None
    model_url: str | None = None
    next_step: Status | None = None
    next_name: str | None = None

    @property
    def step(self) -> int:
        """How many of the four steps of the work are begun."""
        return _STEPS.index(self.status) + 1 if self.status in _STEPS else 0


class Act(NamedTuple):
    """Something that a reader may do with an order."""

    path: str
    name: str
    kind: str = ""
    fields: Mapping[str, str] = {}
    asks: str | None = None
    confirm: str | None = None


@dataclass(frozen=True, kw_only=True)
class LifeStep:
    """A line of what has happened to an order."""

    at: datetime
    name: str
    actor: str
    sources: Sequence[str]
    detail: str | None = None
    waited: str | None = None
    is_long: bool = False


class Tab(NamedTuple):
    """A page in the bar."""

    path: str
    name: str
    is_here: bool


def tabs_of(viewer: Viewer, path: str) -> list[Tab]:
    """Return the pages that a member of staff has."""
    role = viewer.caller.role if viewer.caller else None
    named = []
    if role in {Role.OPERATOR, Role.ADMIN, Role.AUDITOR, Role.DBA}:
        named.append(("/", viewer.gettext(_("Board"))))
    if role in {Role.SELLER, Role.ADMIN, Role.AUDITOR}:
        named.append(("/sales", viewer.gettext(_("Sales"))))
    return [Tab(address, name, address == path) for address, name in named]
