"""What the pages show of an order: values of the read side, joined and named for a reader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import zip_longest
from typing import NamedTuple

from app.board.pages.prices import tracking_of
from app.board.pages.reasons import translated
from app.board.pages.rendering import CHOICE_NAMES, PageReader
from app.board.pages.rendering import marked as _
from app.board.repository import Filters, FoundOrder, ListedOrder, TimelineEntry
from app.kit.caller import Caller, Role
from app.models.status import DONE, HOT, Channel, Status

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
_NO_WAIT, _LONG_WAIT = timedelta(minutes=1), timedelta(hours=24)


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
    def at_ms(self) -> int:
        """Since when, as a number by which a script sorts."""
        return int(self.since.timestamp() * 1000)

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
    asks_name: str | None = None
    asks_price: str | None = None
    may_add_parcel: str | None = None
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


def tabs_of(viewer: PageReader, path: str) -> list[Tab]:
    """Return the pages that a member of staff has; the current one is that of `path`, or above it."""
    role = viewer.caller.role if viewer.caller else None
    named = []
    if role in {Role.OPERATOR, Role.ADMIN, Role.AUDITOR, Role.DBA}:
        named.append(("/", viewer.gettext(_("Board"))))
    if role in {Role.SELLER, Role.ADMIN, Role.AUDITOR}:
        named.append(("/sales", viewer.gettext(_("Sales"))))
    return [Tab(address, name, f"{path}/".startswith(f"{address}/")) for address, name in named]


def card_of(order: ListedOrder, *, ends: datetime | None = None) -> Card:
    """Show an order in a list."""
    title, finish = _title_of(order.summary)
    return Card(
        order_id=order.order_id,
        status=order.status,
        channel=order.channel,
        title=title,
        who=order.partner or order.customer_name or "",
        price=order.price,
        since=order.changed_at,
        material=order.materials[0] if order.materials else None,
        finish=finish,
        operator=order.operator,
        reason=order.reason,
        ends=ends,
    )


def job_of(order: ListedOrder, viewer: PageReader) -> Card:
    """Show an order that is in an operator's hands, with its next step."""
    following = NEXT.get(order.status)
    name = viewer.gettext(_NEXT_NAMES[following]) if following else None
    url = f"/orders/{order.order_id}/model"
    return replace(card_of(order), next_step=following, next_name=name, model_url=url)


def _title_of(summary: str) -> tuple[str, str | None]:
    """Take the words of material and finish off a summary, which `app.schemas.summarise` has written."""
    name, *choices = summary.rsplit(", ", 2)
    if len(choices) == 2 and all(choice in CHOICE_NAMES for choice in choices):
        return name.replace(" x ", " \N{MULTIPLICATION SIGN} ", 1), choices[1]
    return summary, None


def life_of(entries: Sequence[TimelineEntry], viewer: PageReader, now: datetime) -> list[LifeStep]:
    """Show what has happened to an order, with the time that passed after each change."""
    steps = []
    for entry, following in zip_longest(entries, entries[1:]):
        waited = (following.at if following else now) - entry.at
        is_end = following is None and entry.status in DONE
        steps.append(
            LifeStep(
                at=entry.at,
                name=_event_name(entry, viewer),
                actor=entry.actor,
                sources=[each.value for each in entry.services],
                detail=_detail_of(entry, viewer),
                waited=None if is_end or waited < _NO_WAIT else viewer.lasted(waited.total_seconds()),
                is_long=waited > _LONG_WAIT and not is_end,
            )
        )
    return steps


_EVENT_NAMES: Mapping[str, str] = {
    "cancel_requested": _("Cancellation asked for"),
    "cancel_refused": _("Cancellation refused"),
    "requote_requested": _("New price asked for"),
    "file_requested": _("Another file asked for"),
    "replaced_by": _("Ordered again"),
    "again_for": _("Ordered again after a rejection"),
    "released": _("Given back"),
    "handed_over": _("Handed over"),
    "price_set": _("Price set by hand"),
    "price_renewed": _("Price renewed"),
}


def _event_name(entry: TimelineEntry, viewer: PageReader) -> str:
    special = next((name for name in _EVENT_NAMES if name in entry.detail), None)
    return viewer.gettext(_EVENT_NAMES[special]) if special else viewer.status(entry.status)


def _detail_of(entry: TimelineEntry, viewer: PageReader) -> str | None:
    """Return the words of a line that a reader wants: a model's name, a reason, a price."""
    detail = entry.detail
    names = ("model", "to", "reason", "tracking", *(name for name in _EVENT_NAMES if name != "price_set"))
    said = [translated(detail[name], viewer) for name in names if isinstance(detail.get(name), str)]
    renewed = detail.get("price_renewed")
    quote = renewed if isinstance(renewed, Mapping) else detail
    if "price_set" in detail:
        before, after = (viewer.money(_amount_of(detail.get(name))) for name in ("from", "price_set"))
        said.append(f"{before} → {after}")
    elif "price" in quote:
        said.append(viewer.money(Decimal(str(quote["price"]))))
    return " · ".join(each for each in said if each and each != entry.actor) or None


def _amount_of(said: object) -> Decimal | None:
    try:
        return Decimal(str(said))
    except InvalidOperation:
        return None


def facts_of(found: FoundOrder, viewer: PageReader) -> list[tuple[str, str]]:
    """Return what else is known of an order, with its name."""
    g, order = viewer.gettext, found.order
    said = [
        (g(_("Number")), str(order.order_id)),
        (g(_("Reference")), order.reference),
        (g(_("Customer")), order.customer_name),
        (g(_("E-mail")), order.customer_email),
        (g(_("Partner")), order.partner),
        (g(_("Ordered on")), viewer.moment(order.created_at)),
        (g(_("Shipped on")), viewer.moment(order.shipped_at) if order.shipped_at else None),
        (g(_("Tracking number")), tracking_of(found.timeline)),
    ]
    for service, name in (("shop", "Shop"), ("crm", "CRM"), ("mes", "MES")):
        status: Status | None = getattr(order, f"{service}_status")
        said.append((name, viewer.status(status) if status else None))
    return [(name, value) for name, value in said if value]


def acts_for(order: ListedOrder, viewer: PageReader) -> list[Act]:
    """Return what who looks may do with an order now; the services have the last word."""
    caller = viewer.caller
    if caller is None:
        return []
    acts = []
    if caller.role in {Role.OPERATOR, Role.ADMIN}:
        acts += _operators_acts(order, viewer, caller)
    if caller.role in {Role.SELLER, Role.ADMIN}:
        acts += _sellers_acts(order, viewer)
    return acts


def _operators_acts(order: ListedOrder, viewer: PageReader, caller: Caller) -> list[Act]:
    g = viewer.gettext
    if order.status is Status.MANUFACTURING_APPROVED:
        return [Act("take", g(_("Take")), "main")]
    following = NEXT.get(order.status)
    if following is None or order.operator != caller.name:
        return []
    parcel = g(_("Tracking number")) if following is Status.SHIPPED else None
    name, fields = g(_NEXT_NAMES[following]), {"to": following.value}
    acts = [Act("advance", name, "main", fields, may_add_parcel=parcel)]
    acts.append(Act("hand-over", g(_("Hand over")), asks_name=g(_("Hand over to"))))
    if order.status is Status.MANUFACTURING_STARTED:
        acts.append(Act("release", g(_("Give back")), asks=g(_("Why you give it back"))))
        why = g(_("Why it cannot be made"))
        acts.append(Act("advance", g(_("Cannot be made")), "danger", {"to": Status.REJECTED.value}, asks=why))
    return acts


def _sellers_acts(order: ListedOrder, viewer: PageReader) -> list[Act]:
    g = viewer.gettext
    acts = []
    if order.status is Status.PRICE_CALCULATED:
        acts.append(Act("approve", g(_("Approve the price")), "main"))
        acts.append(Act("requote", g(_("Ask for a new price"))))
        if order.requote_requested_at is None and order.cancel_requested_at is None:
            why, price = g(_("Why it costs that")), g(_("Price of the order, EUR"))
            acts.append(Act("price", g(_("Set another price")), asks=why, asks_price=price))
    if order.status is Status.REJECTED and order.channel is Channel.B2C:
        acts.append(Act("ask-file", g(_("Ask for another file")), asks=g(_("What has to be different"))))
    if order.status is Status.SHIPPED:
        acts.append(Act("close", g(_("It has arrived")), "main"))
    if order.status in HOT and order.status not in _BEFORE_CRM and order.cancel_requested_at is None:
        acts.append(Act("cancel", g(_("Ask to cancel")), "danger", asks=g(_("Why it is to be cancelled"))))
    return acts


_BEFORE_CRM = frozenset({Status.INITIATED, Status.FILE_UPLOADED})


def fits(order: ListedOrder, filters: Filters) -> bool:
    """Return whether an order that has just changed is one of a filtered list."""
    price = order.price or Decimal(0)
    return (
        (not filters.materials or bool(set(filters.materials) & set(order.materials)))
        and (filters.price_from is None or price >= filters.price_from)
        and (filters.price_to is None or price <= filters.price_to)
        and (filters.channel is None or order.channel is filters.channel)
        and (filters.partner is None or order.partner == filters.partner)
        and (filters.waits_since is None or order.changed_at <= filters.waits_since)
    )
