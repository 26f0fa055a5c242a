"""Small pictures of pieces, for lists: made of the picture that the sandbox drew, when somebody first looks.

A list has fifty of them, and a picture has as many bytes as a page. A piece without one has a drawing in its
place, so that no list complains of what is missing.
"""

import asyncio
import io
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from PIL import Image
from starlette.responses import Response

from app.files import FilesUnavailable, ModelStore

PIXELS: Final = 96
GOOD_FOR_SECONDS = 600
"""How long one is kept, here and by browsers: a customer may replace his model until he orders."""
_MOST_KEPT = 4000
_MOST_SIDE = 1024
_NONE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 40 40" fill="none" stroke="#8d8676" '
    b'stroke-width="1.6" stroke-linejoin="round"><circle cx="12" cy="15" r="6.6"/>'
    b'<path d="M8.6 3h6.8l2 2.6L12 10.4 6.6 5.6z"/></svg>'
)
PictureSize = Literal["small"]


def shrink(picture: bytes) -> bytes | None:
    """Return a picture as a small WebP; None if it is none. Pure.

    It was written in the sandbox, which has read a stranger's file: one format is read, of a bounded size.
    """
    try:
        with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
            if max(image.size) > _MOST_SIDE:
                return None
            small = image.convert("RGBA")
        small.thumbnail((PIXELS, PIXELS), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        small.save(written, "WEBP", quality=70)
        return written.getvalue()
    except (OSError, ValueError, SyntaxError):
        return None


@dataclass
class Thumbnails:
    """The small pictures that were looked at last.

    Parameters:
        models: where the pictures are.
        seconds: the clock.
    """

    models: ModelStore
    seconds: Callable[[], float] = time.monotonic
    _kept: OrderedDict[int, tuple[float, bytes]] = field(default_factory=OrderedDict)

    def kept(self, order_id: int) -> bytes | None:
        """Return the small picture of an order, if it was made a short time ago."""
        at, small = self._kept.get(order_id, (-GOOD_FOR_SECONDS - 1.0, b""))
        return small if self.seconds() - at < GOOD_FOR_SECONDS else None

    async def make(self, order_id: int, key: str) -> bytes | None:
        """Make the small picture of an order's model; None if it was not drawn, or there is no answer."""
        try:
            picture = await self.models.read_preview(key, "png")
        except FilesUnavailable:
            return None
        small = None if picture is None else await asyncio.to_thread(shrink, picture)
        if small is not None:
            self._kept[order_id] = self.seconds(), small
            self._kept.move_to_end(order_id)
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return small


def thumbnail_answer(small: bytes | None) -> Response:
    """Answer with a small picture, or with the drawing that stands for none."""
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": f"private, max-age={30 if small is None else GOOD_FOR_SECONDS}",
        "Vary": "Cookie",
    }
    kind = "image/svg+xml" if small is None else "image/webp"
    return Response(_NONE if small is None else small, media_type=kind, headers=headers)
