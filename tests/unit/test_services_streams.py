"""Streams of events are bounded for each caller; a request is logged by its id; no body is compressed."""

import gzip
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.kit.caller import Caller, Role
from app.kit.middleware import RequestLog, WellFormed
from app.kit.strict import StreamLimit, TooManyStreams

ROSA = Caller(name="Rosa", role=Role.OPERATOR, identity_id=1)
SAM = Caller(name="Sam", role=Role.OPERATOR, identity_id=2)


async def events() -> AsyncIterator[str]:
    for number in range(3):
        yield f"data: {number}\n\n"


async def test_a_caller_has_so_many_streams_and_no_more() -> None:
    limit = StreamLimit(2)
    first, second = (limit.held(ROSA, events()) for _ in range(2))
    assert await anext(first) == await anext(second) == "data: 0\n\n"
    with pytest.raises(TooManyStreams, match="2 streams"):
        limit.held(ROSA, events())
    assert [part async for part in limit.held(SAM, events())] == ["data: 0\n\n", "data: 1\n\n", "data: 2\n\n"]
    async with aclosing(second):  # type: ignore[type-var]
        pass
    assert await anext(limit.held(ROSA, events())) == "data: 0\n\n"


async def test_streams_that_were_asked_for_at_once_are_bounded_as_well() -> None:
    limit = StreamLimit(2)
    asked = [limit.held(ROSA, events()) for _ in range(5)]
    begun = [await anext(each, None) for each in asked]
    assert begun == ["data: 0\n\n"] * 2 + [None] * 3


async def test_what_is_never_begun_keeps_no_place() -> None:
    limit = StreamLimit(1)
    for _ in range(3):
        limit.held(ROSA, events())
    assert len([part async for part in limit.held(ROSA, events())]) == 3


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://mes")


@pytest.mark.parametrize(
    ("given", "bound"),
    [
        ("7d9f6b0c-1f7e-4f5e-9d43-2b0f6a1c7e55", {"request_id": "7d9f6b0c-1f7e-4f5e-9d43-2b0f6a1c7e55"}),
        ("a b", {}),
        ('12345678","user.name":"admin', {}),
        ("x" * 65, {}),
        ("", {}),
    ],
)
async def test_the_id_of_a_request_is_in_its_lines(given: str, bound: Mapping[str, str]) -> None:
    async def show(_request: Request) -> JSONResponse:
        return JSONResponse(structlog.contextvars.get_contextvars())

    app = RequestLog(FastAPI(routes=[Route("/", show)]), facts_of=lambda _path: {}, routine=frozenset({"/"}))
    async with client_of(app) as client:
        answer = await client.get("/", headers={"X-Request-Id": given} if given else {})
    assert answer.json() == bound


async def test_a_body_that_is_compressed_is_refused() -> None:
    async def size(request: Request) -> JSONResponse:
        return JSONResponse(len(await request.body()))

    app = WellFormed(FastAPI(routes=[Route("/", size, methods=["POST"])]))
    bomb = gzip.compress(bytes(100_000))
    async with client_of(app) as client:
        answer = await client.post("/", content=bomb, headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
        assert answer.headers["content-type"] == "application/problem+json"
        assert (await client.post("/", content=b"a", headers={"Content-Encoding": "identity"})).json() == 1
