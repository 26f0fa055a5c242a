"""What the day will bring: who orders what, and how it is going to end. Pure: the same seed, the same day."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from random import Random
from typing import TypeVar

from app.models.status import Channel
from ops.demo.bad_shapes import bad_shapes
from ops.demo.shapes import Shape, good_shapes

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
BAD_MODELS = ("holes", "cut-off", "a-letter", "as-a-statue")

B2C_SHARE = 0.6
DISTINCT_SHARE = 0.4
"""Different models per order: the others repeat a model, as shops do, and cost no second measurement."""
BAD_SHARE = 0.04
DECLINING_SHARE = 0.05
CALLING_OFF_SHARE = 0.03
IMPATIENT_SHARE = 0.1


T = TypeVar("T")


class Mind(StrEnum):
    """What the buyer does about the price."""

    BUYS = "buys"
    DECLINES = "declines"
    CALLS_OFF = "calls off"
    """Agrees, and regrets it at once: MES decides whether that was in time."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One order as its buyer has it in mind.

    Parameters:
        number: which of the day's orders this is, from 0.
        key: the buyer's idempotency key.
        impatient: sends everything twice at once, like a double click.
    """

    number: int
    key: str
    channel: Channel
    buyer: str
    shape: Shape
    material: str
    finish: str
    quantity: int
    mind: Mind = Mind.BUYS
    impatient: bool = False


def plan_day(*, orders: int, seed: int) -> list[Errand]:
    """Draw the day's orders.

    Parameters:
        orders: how many.
        seed: the same seed gives the same day.
    """
    random = Random(seed)
    models = _models(random, orders)
    minds = _shuffled(
        random, orders, {Mind.DECLINES: DECLINING_SHARE, Mind.CALLS_OFF: CALLING_OFF_SHARE}, Mind.BUYS
    )
    channels = _shuffled(random, orders, {Channel.B2C: B2C_SHARE}, Channel.B2B)
    return [
        Errand(
            number,
            key=f"demo-{seed}-{number}",
            channel=channels[number],
            buyer=random.choice(CUSTOMERS if channels[number] is Channel.B2C else PARTNERS),
            shape=models[number],
            material=random.choice(MATERIALS),
            finish=random.choice(FINISHES),
            quantity=random.choice((1, 1, 1, 2, 3)),
            mind=minds[number] if models[number].good else Mind.BUYS,
            impatient=random.random() < IMPATIENT_SHARE,
        )
        for number in range(orders)
    ]


def _models(random: Random, orders: int) -> list[Shape]:
    bad = round(orders * BAD_SHARE) or min(orders, 1)
    distinct = list(islice(good_shapes(seed=random.randrange(2**32)), max(1, round(orders * DISTINCT_SHARE))))
    spoilt = [shape for shape in bad_shapes() if shape.name in BAD_MODELS]
    good = [
        distinct[number] if number < len(distinct) else random.choice(distinct)
        for number in range(orders - bad)
    ]
    models = good + [random.choice(spoilt) for _ in range(bad)]
    random.shuffle(models)
    return models


def _shuffled(random: Random, count: int, shares: dict[T, float], otherwise: T) -> list[T]:
    drawn: list[T] = []
    for value, share in shares.items():
        drawn += [value] * (round(count * share) or 1)
    drawn = (drawn + [otherwise] * count)[:count]
    random.shuffle(drawn)
    return drawn
