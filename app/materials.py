"""What a piece can be made of, and how its surface is finished. Prices are the pricing worker's."""

from enum import StrEnum


class Material(StrEnum):
    """A metal that the factory casts. The value stands in the database, in messages and in JSON."""

    GOLD_18K = "gold_18k"
    GOLD_14K = "gold_14k"
    SILVER_925 = "silver_925"
    PLATINUM_950 = "platinum_950"
    BRASS = "brass"


class Finish(StrEnum):
    """How the surface is worked after casting."""

    POLISHED = "polished"
    MATTE = "matte"
    BRUSHED = "brushed"
    HAMMERED = "hammered"
