"""The pieces of an order as they look: a picture, and a mesh that is turned where somebody asks for it.

Both were made in the sandbox (`app.pricing.preview`): no browser reads a stranger's file.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, NamedTuple
from urllib.parse import quote

from fastapi import Query
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
