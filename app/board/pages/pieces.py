"""The pieces of an order as they look: a picture, and a mesh that is turned where somebody asks for it.

Both were made in the sandbox (`app.pricing.preview`): no browser reads a stranger's file. Lists show the
picture small: it has as many bytes as a page, and a list has fifty. What was not drawn has a drawing in its
place there, so that no list complains of what is missing.
"""

import asyncio
import io
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, NamedTuple
from urllib.parse import quote

from fastapi import Query
from PIL import Image
from starlette.responses import Response, StreamingResponse

from app.board.errors import NothingToShow
from app.board.pages.rendering import HEADERS
from app.files import FilesUnavailable, ModelMissing, ModelStore, PreviewKind
from app.messaging.events import SnapshotLine
from app.models.status import Status

MOST_SHOWN = 6
"""Of so many lines of an order the pieces are shown."""
_KINDS: dict[PreviewKind, str] = {"png": "image/png", "glb": "model/gltf-binary"}
_DIGEST_LETTERS = 12
_LOOK_SECONDS = 1.0
_BEFORE_MEASURED = frozenset({Status.INITIATED, Status.FILE_UPLOADED, Status.SUBMITTED})

LineNumber = Annotated[int, Query(alias="line", ge=1, le=1000)]
ModelVersion = Annotated[str, Query(alias="v", max_length=64)]
"""Stands in an address so that it is another one when the model is another; nothing reads it."""


class ShownPiece(NamedTuple):
    """A line's piece. `state` is drawn; or awaited, broken or missing: why there is no picture."""

    line_no: int
    name: str
    state: str
    query: str


async def pieces_of(models: ModelStore, lines: Sequence[SnapshotLine], status: Status) -> list[ShownPiece]:
    """Return the pieces of an order that is in a status."""
    there = [(line, line.model_key) for line in lines if line.model_key is not None][:MOST_SHOWN]
    why_not = _why_not(status)
    drawn = await asyncio.gather(*(_is_drawn(models, key) for _line, key in there))
    return [
        ShownPiece(line.line_no, line.model_name or "", "drawn" if is_drawn else why_not, _query(line, key))
        for (line, key), is_drawn in zip(there, drawn, strict=True)
    ]


async def _is_drawn(models: ModelStore, key: str) -> bool:
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            return await models.has_preview(key)
    except (FilesUnavailable, TimeoutError):
        # The page is for much else, and waits for no store of files.
        return False


def _why_not(status: Status) -> str:
    if status is Status.REJECTED:
        return "broken"
    return "awaited" if status in _BEFORE_MEASURED else "missing"


def _query(line: SnapshotLine, key: str) -> str:
    return f"line={line.line_no}&v={quote(key.rpartition('/')[2][:_DIGEST_LETTERS])}"


async def shown(
    models: ModelStore, order_id: int, lines: Sequence[SnapshotLine], *, line_no: int, kind: PreviewKind
) -> Response:
    """Answer with what is shown of a line's model. The browser keeps it: its address names the model.

    Raises:
        NothingToShow: it was not drawn, or there is no such line.
        FilesUnavailable: the store did not answer.
    """
    key = next((line.model_key for line in lines if line.line_no == line_no), None)
    content = await models.read_preview(key, kind) if key is not None else None
    if content is None:
        raise NothingToShow(order_id, line_no)
    headers = {
        **HEADERS,
        "Cache-Control": "private, max-age=86400",
        "Vary": "Cookie",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return Response(content, media_type=_KINDS[kind], headers=headers)


async def download(
    models: ModelStore, order_id: int, lines: Sequence[SnapshotLine], *, line_no: int
) -> Response:
    """Answer with a model's file, to be kept: no browser opens a stranger's file in our name.

    Raises:
        NothingToShow: there is none.
        FilesUnavailable: the store did not answer.
    """
    line = next((line for line in lines if line.line_no == line_no), None)
    if line is None or line.model_key is None:
        raise NothingToShow(order_id, line_no)
    title = quote(f"{order_id}-{line.model_name or 'model'}", safe="")
    headers = {
        **HEADERS,
        "Content-Disposition": f"attachment; filename*=UTF-8''{title}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    content = await _content(models, line.model_key, order_id, line_no)
    return StreamingResponse(content, media_type="application/octet-stream", headers=headers)


async def _content(models: ModelStore, key: str, order_id: int, line_no: int) -> AsyncIterator[bytes]:
    try:
        return await models.read(key)
    except ModelMissing as error:
        raise NothingToShow(order_id, line_no) from error


THUMBNAIL_PIXELS: Final = 96
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
        small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        small.save(written, "WEBP", quality=70)
        return written.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
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
