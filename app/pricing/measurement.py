"""What is known of a model file once it was looked at: its measures, or why it has none."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The measures of a model that can be made, over all its bodies.

    Parameters:
        volume_mm3: the enclosed volume.
        area_mm2: the surface.
        extents_mm: the sides of the axis-aligned bounding box.
        polygons: the triangles of the file.
    """

    volume_mm3: Positive
    area_mm2: Positive
    extents_mm: tuple[Positive, Positive, Positive]
    polygons: Annotated[int, Field(ge=4)]


@dataclass(frozen=True, kw_only=True)
class Unmeasurable:
    """A model without measures.

    Parameters:
        reason: a sentence for the customer, with what to do.
        final: the content is at fault, so that another attempt would end the same; False when the
            machine was (too busy, child killed) and another attempt may succeed.
    """

    reason: Annotated[str, Field(min_length=1, max_length=500)]
    final: bool = True


Outcome = Measurement | Unmeasurable
