"""What the day will bring: who orders what, and what happens to it. Pure: the same seed, the same day."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, islice, repeat
from random import Random
from typing import TypeVar

from app.console.demo.bad_shapes import bad_shapes
from app.console.demo.shapes import Shape, good_shapes
from app.models.status import Channel

# The words of the HTTP API; the demo is a client and shares no code with the services.
MATERIALS = ("gold_18k", "gold_14k", "silver_925", "platinum_950", "brass")
FINISHES = ("polished", "matte", "brushed", "hammered")
CUSTOMERS = (
    "Ada Berg",
    "Ben Okafor",
    "Carla Ruiz",
    "Dmitri Popov",
    "Elif Kaya",
    "Farid Haddad",
    "Greta Lind",
)
PARTNERS = ("atelier-nord", "bijoux-sud", "casa-oro")
BAD_MODELS = frozenset({"holes", "cut-off", "a-letter", "as-a-statue"})

DISTINCT_SHARE = 0.4
"""Different models per order: the others repeat one, as shops do, and cost no second measurement."""
IMPATIENT_SHARE = 0.1

T = TypeVar("T")


class Deviation(StrEnum):
    """How an order differs from the plain case; most do not."""

    NONE = "none"
    BAD_MODEL = "bad model"
    DECLINES = "declines"
    """The buyer does not want it at this price."""
    CALLS_OFF = "calls off"
    """The buyer agrees, and regrets it at once: MES decides whether that was in time."""
    CONTESTED = "contested"
    """Two operators reach for it at the same moment."""


DEVIATION_SHARES = {
    Deviation.BAD_MODEL: 0.04,
    Deviation.DECLINES: 0.05,
    Deviation.CALLS_OFF: 0.03,
    Deviation.CONTESTED: 0.1,
}
CHANNEL_SHARES = {Channel.B2C: 0.6}


@dataclass(frozen=True, slots=True)
class PlannedOrder:
    """One order as its buyer has it in mind.

    Parameters:
        key: the buyer's idempotency key.
        impatient: sends the order twice at once, like a double click.
    """

    key: str
    channel: Channel
    buyer: str
    shape: Shape
    material: str
    finish: str
    quantity: int
    deviation: Deviation = Deviation.NONE
    impatient: bool = False


def plan_day(*, orders: int, seed: int) -> list[PlannedOrder]:
    """Draw the day's orders.

    Parameters:
        orders: how many.
        seed: the same seed gives the same day.
    """
    random = Random(seed)
    deviations = _deal(random, orders, DEVIATION_SHARES, Deviation.NONE)
    channels = _deal(random, orders, CHANNEL_SHARES, Channel.B2B)
    good = _good_models(random, distinct=max(1, round(orders * DISTINCT_SHARE)))
    bad = [shape for shape in bad_shapes() if shape.name in BAD_MODELS]
    return [
        PlannedOrder(
            key=f"order-{number:05}-of-the-demo-{seed}",
            channel=channel,
            buyer=random.choice(CUSTOMERS if channel is Channel.B2C else PARTNERS),
            shape=random.choice(bad) if deviation is Deviation.BAD_MODEL else next(good),
            material=random.choice(MATERIALS),
            finish=random.choice(FINISHES),
            quantity=random.choice((1, 1, 1, 2, 3)),
            deviation=deviation,
            impatient=random.random() < IMPATIENT_SHARE,
        )
        for number, (deviation, channel) in enumerate(zip(deviations, channels, strict=True))
    ]


def _good_models(random: Random, *, distinct: int) -> Iterator[Shape]:
    """Yield each distinct model once, then any of them again without end."""
    models = list(islice(good_shapes(seed=random.randrange(2**32)), distinct))
    return chain(models, (random.choice(models) for _ in repeat(None)))


def _deal(random: Random, count: int, shares: Mapping[T, float], otherwise: T) -> list[T]:
    """Deal values by their shares, at least one of each while there is room."""
    dealt = [value for value, share in shares.items() for _ in range(round(count * share) or 1)]
    dealt = (dealt + [otherwise] * count)[:count]
    random.shuffle(dealt)
    return dealt


@dataclass(slots=True)
class AcceptedOrders:
    """The clients' own book.

    Parameters:
        by_id: each order for which the client got a 2xx, with what was wanted.
        races: how often two operators took the same order at once, and one of them got it.
    """

    by_id: dict[str, PlannedOrder] = field(default_factory=dict)
    races: int = 0
    _claims: set[tuple[str, str]] = field(default_factory=set)

    def accept(self, order_id: str, planned: PlannedOrder) -> None:
        """Note that a service has promised to make an order."""
        self.by_id[order_id] = planned

    def claim(self, order_id: str, work: str) -> bool:
        """Reserve an order for one person's work; False if a colleague has reserved it."""
        mine = (order_id, work) not in self._claims
        self._claims.add((order_id, work))
        return mine
