"""The filters of the list of new orders, as they stand in its form and in an address."""

from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, NamedTuple
from urllib.parse import urlencode

from fastapi import Depends, Query

from app.board.repository import Filters
from app.models.reference import Material
from app.models.status import Channel


class Chosen(NamedTuple):
    """The filters of a list as they stand in its form, and what of them cannot be read."""

    material: str | None
    channel: str | None
    partner: str | None
    price_from: str | None
    price_to: str | None
    waiting_hours: int | None
    order: str | None

    @property
    def is_any(self) -> bool:
        """Whether anything is left out of the list."""
        return any(value is not None for value in self[:-1])

    @property
    def is_longest_first(self) -> bool:
        """Whether those come first that have waited longest, and not the newest."""
        return self.order == "longest"

    def query(self, **more: str) -> str:
        """Write them as a query."""
        chosen = {name: str(value) for name, value in self._asdict().items() if value is not None}
        return urlencode(chosen | more)

    def filters(self, now: datetime) -> tuple[Filters, bool]:
        """Return what the list is asked for; False with it if some of it cannot be read, and is left out."""
        hours, is_good = self.waiting_hours, True
        try:
            prices = amount_of(self.price_from), amount_of(self.price_to)
        except ValueError:
            prices, is_good = (None, None), False
        found = Filters(
            materials=[self.material] if self.material else (),
            channel=Channel(self.channel) if self.channel else None,
            partner=self.partner,
            price_from=prices[0],
            price_to=prices[1],
            waits_since=now - timedelta(hours=hours) if hours else None,
        )
        return found, is_good


def amount_of(text: str | None) -> Decimal | None:
    """Read an amount as people write it."""
    if text is None:
        return None
    try:
        amount = Decimal("".join(text.split()).replace(",", "."))
    except InvalidOperation:
        raise ValueError(text) from None
    if not amount.is_finite() or not 0 <= amount < 10**10:
        raise ValueError(text)
    return amount


def _chosen(  # noqa: PLR0917 (FastAPI calls it by name)
    material: Annotated[str | None, Query(max_length=40)] = None,
    channel: Annotated[str | None, Query(max_length=10)] = None,
    partner: Annotated[str | None, Query(max_length=200)] = None,
    price_from: Annotated[str | None, Query(max_length=12)] = None,
    price_to: Annotated[str | None, Query(max_length=12)] = None,
    waiting_hours: Annotated[str | None, Query(max_length=4)] = None,
    order: Annotated[str | None, Query(max_length=10)] = None,
) -> Chosen:
    return Chosen(
        material if material in set(Material) else None,
        channel if channel in set(Channel) else None,
        partner or None,
        price_from or None,
        price_to or None,
        int(waiting_hours)
        if waiting_hours and waiting_hours.isascii() and waiting_hours.isdecimal()
        else None,
        order if order == "longest" else None,
    )


ChosenFilters = Annotated[Chosen, Depends(_chosen)]
