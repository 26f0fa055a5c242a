"""Why an order costs what it costs: the measures of its pieces, and the parts of their prices."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from app.board.pages.rendering import PageReader
from app.board.pages.rendering import marked as _
from app.board.repository import TimelineEntry

Measured = Mapping[str, Any]
"""What `app.pricing.tariff.explain` has said of a line."""


class PricePart(NamedTuple):
    """A part of the price of one piece, and what it follows from."""

    name: str
    why: str
    amount: Decimal


def measured_of(entries: Sequence[TimelineEntry]) -> Mapping[int, Measured]:
    """Return what was measured last, by the line's number; nothing of an order of an older release."""
    for entry in reversed(entries):
        if isinstance(said := entry.detail.get("measured"), list):
            return {line["line_no"]: line for line in said}
    return {}


def measures_of(measured: Iterable[Measured], viewer: PageReader) -> list[tuple[str, str]]:
    """Return the measures of pieces, with their names."""
    g, said = viewer.gettext, list[tuple[str, str]]()
    for line in measured:
        sides = " \N{MULTIPLICATION SIGN} ".join(viewer.number(side) for side in line["box_mm"])
        said += [
            (g(_("Box")), g(_("%(sides)s mm"), sides=sides)),
            (g(_("Volume")), g(_("%(volume)s cm³"), volume=viewer.number(line["volume_mm3"] / 1000, 2))),
            (g(_("Surface")), g(_("%(area)s cm²"), area=viewer.number(line["area_mm2"] / 100, 2))),
            (g(_("Polygons")), viewer.number(line["polygons"])),
        ]
    return said


def parts_of(line: Measured | None, viewer: PageReader) -> list[PricePart]:
    """Return the parts of the price of one piece; none where they are not known."""
    if line is None or "metal_eur" not in line:
        return []
    g, (x, y, z) = viewer.gettext, line["box_mm"]
    said = [
        (
            "metal_eur",
            _("Metal"),
            _("%(n)s g, with what casting loses"),
            viewer.number(line["metal_grams"], 2),
        ),
        ("finish_eur", _("Finishing"), _("%(n)s cm² of surface"), viewer.number(line["area_mm2"] / 100, 2)),
        ("tree_eur", _("Casting tree"), _("%(n)s cm³ of room"), viewer.number(x * y * z / 1000, 2)),
        ("machine_eur", _("Preparation"), _("%(n)s polygons"), viewer.number(line["polygons"])),
    ]
    found = [PricePart(g(name), g(why, n=number), Decimal(line[key])) for key, name, why, number in said]
    if "minimum_eur" in line:
        least = Decimal(line["minimum_eur"])
        found.append(
            PricePart(
                g(_("Small piece")),
                g(_("the least that a piece costs")),
                least - sum(each.amount for each in found),
            )
        )
    return found


class SetByHand(NamedTuple):
    """A price that a seller has set."""

    actor: str
    reason: str
    before: Decimal


def set_by_hand(entries: Sequence[TimelineEntry]) -> SetByHand | None:
    """Return how the price was set that an order has; None if it was calculated."""
    for entry in reversed(entries):
        if "price_renewed" in entry.detail or "price" in entry.detail:
            said = entry.detail
            if "price_set" not in said:
                return None
            return SetByHand(entry.actor, said["reason"], Decimal(said["from"]))
    return None


def tracking_of(entries: Sequence[TimelineEntry]) -> str | None:
    """Return the number of the parcel; None if there is none."""
    return said_last(entries, "tracking")


def said_last(entries: Sequence[TimelineEntry], name: str) -> str | None:
    """Return what a history says last by a name; None if it says nothing."""
    return next((str(each.detail[name]) for each in reversed(entries) if name in each.detail), None)
