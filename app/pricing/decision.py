"""From the measures of an order's models to what happens to the order. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from app.messaging.events import ItemPrice, OrderRejected, PriceCalculated
from app.models.mes import MesOrderItem
from app.pricing.errors import NothingOrdered, PricingError, TooExpensive
from app.pricing.measurement import Outcome, Unmeasurable
from app.pricing.tariff import LIMIT_EUR, TARIFF, Price, Tariff, explain, price, tariff_version

ACTOR = "pricing"

Outcomes = Mapping[str, Outcome]
"""What is known of each model, by its key in the model store."""


def decide(
    items: Sequence[MesOrderItem],
    outcomes: Outcomes,
    tariff: Tariff = TARIFF,
    *,
    valid_until: datetime | None = None,
) -> PriceCalculated | OrderRejected:
    """Price an order, or reject it with the reasons of all of its lines.

    Parameters:
        items: the lines of the order.
        outcomes: what is known of their models.
        tariff: the price list.
        valid_until: until when the price may be approved; None for a price without an end.
    """
    priced: list[ItemPrice] = []
    total, faults = Decimal(0), []
    for item in items:
        try:
            line = price_line(item, outcomes[item.model_key], tariff)
        except PricingError as error:
            faults.append(f"{item.model_name}: {error}" if len(items) > 1 else str(error))
        else:
            priced.append(ItemPrice(line_no=item.line_no, unit_price=line.unit_eur))
            total += line.total_eur
    if faults or not items:
        return rejected(" ".join(faults) or str(NothingOrdered()))
    if total >= LIMIT_EUR:
        return rejected(str(TooExpensive(LIMIT_EUR)))
    version = tariff_version(
        tariff, materials={item.material for item in items}, finishes={item.finish for item in items}
    )
    return PriceCalculated(
        actor=ACTOR,
        price=total,
        items=tuple(priced),
        price_valid_until=valid_until,
        # Neither without the other: releases that know neither are sent neither.
        tariff_version=version if valid_until is not None else None,
    )


def explained(
    items: Sequence[MesOrderItem], outcomes: Outcomes, tariff: Tariff, *, with_prices: bool
) -> dict[str, Any]:
    """Return what an order's history says of how its price came about: measures and parts of each line."""
    found = [(item, outcomes[item.model_key]) for item in items]
    lines = [
        {
            "line_no": item.line_no,
            **explain(
                outcome,
                material=item.material,
                finish=item.finish,
                tariff=tariff,
                with_price=with_prices,
            ),
        }
        for item, outcome in found
        if not isinstance(outcome, Unmeasurable)
    ]
    return {"measured": lines}


def price_line(item: MesOrderItem, outcome: Outcome, tariff: Tariff = TARIFF) -> Price:
    """Price one line.

    Raises:
        PricingError: why it has no price, in words for the customer.
    """
    if isinstance(outcome, Unmeasurable):
        raise PricingError(outcome.reason)
    return price(outcome, material=item.material, finish=item.finish, quantity=item.quantity, tariff=tariff)


def rejected(reason: str) -> OrderRejected:
    """Reject an order by the name of pricing."""
    return OrderRejected(actor=ACTOR, reason=reason)
