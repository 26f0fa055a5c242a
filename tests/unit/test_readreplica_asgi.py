"""Causal tokens through ASGI without a framework, and what a missing extra says."""

import asyncio
import subprocess
import sys
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from readreplica import CausalToken, KeyRing, TokenText, learn, required_token
from readreplica.asgi import COOKIE, CausalTokens, CookieOptions, _cookie
from readreplica.context import record_commit
from readreplica.signing import TOKEN_HEADER
from readreplica.wal import Lsn, Position

SIGNED = TokenText(KeyRing({"k": b"k" * 16}))
PLAIN = TokenText(None)
Message = MutableMapping[str, Any]
Seen = list[CausalToken | None]


def at(lsn: int, cluster: str = "main") -> CausalToken:
    return CausalToken({cluster: Position(7, 1, Lsn(lsn))})


class Kept:
    """A store without a server."""

    def __init__(self) -> None:
        self.tokens: dict[str, CausalToken] = {}

    async def read(self, name: str) -> CausalToken:
        return self.tokens.get(name, CausalToken())

    async def merge(self, name: str, token: CausalToken, *, after: CausalToken) -> None:
        self.tokens[name] = self.tokens.get(name, CausalToken()).merge(token)


async def answered(middleware: CausalTokens, *headers: tuple[str, str]) -> list[Message]:
    """What a server gets for one request."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(name.lower().encode(), value.encode()) for name, value in headers]}
    await middleware(scope, receive, send)
    return sent


def around(seen: Seen, *, writes: CausalToken | None = None, **options: Any) -> CausalTokens:
    """The middleware around an application that reads, and writes."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        seen.append(required_token())
        if writes is not None:
            record_commit(writes)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b""})

    return CausalTokens(app, **options)


async def test_a_request_reads_after_its_token_and_the_answer_has_what_it_wrote() -> None:
    seen: Seen = []
    middleware = around(seen, writes=at(9, "other"), text=PLAIN)
    start, _ = await answered(middleware, (TOKEN_HEADER, at(5).encode()))
    assert seen == [at(5)]
    header = at(5).followed_by(at(9, "other")).encode()
    assert start["headers"] == [(b"x", b"y"), (b"causal-token", header.encode())]
    assert required_token() is None


async def test_a_browser_has_a_cookie() -> None:
    seen: Seen = []
    middleware = around(seen, writes=at(9), text=SIGNED, cookie=CookieOptions(max_age_seconds=60))
    start, _ = await answered(middleware)
    text = SIGNED.write(at(9))
    assert start["headers"][1:] == [
        (b"causal-token", text.encode()),
        (b"set-cookie", f"{COOKIE}={text}; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure".encode()),
    ]
    again, _ = await answered(around(seen, text=SIGNED), ("Cookie", f"a=b; {COOKIE}={text}"))
    assert seen == [CausalToken(), at(9)]
    assert [name for name, _ in again["headers"]] == [b"x", b"causal-token"]


async def test_a_caller_without_either_is_known_by_name() -> None:
    seen: Seen = []
    store = Kept()
    options: dict[str, Any] = {"text": PLAIN, "caller_header": "X-Caller", "store_of": lambda _scope: store}
    await answered(around(seen, writes=at(9), **options), ("X-Caller", "nord"))
    await answered(around(seen, **options), ("X-Caller", "nord"))
    await answered(around(seen, **options), ("X-Caller", "south"))
    assert seen == [CausalToken(), at(9), CausalToken()]


async def test_a_token_that_is_not_good_is_refused_before_the_application() -> None:
    seen: Seen = []
    start, body = await answered(around(seen, text=SIGNED), (TOKEN_HEADER, at(5).encode()))
    assert (start["status"], seen) == (400, [])
    assert (b"causal-token", b"") in start["headers"]
    assert body["body"].startswith(b"header Causal-Token: ")


async def test_what_is_no_request_passes() -> None:
    kinds: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        kinds.append(scope["type"])
        learn(at(5))

    async def unused(*_: Any) -> Any:
        raise AssertionError

    await CausalTokens(app, text=PLAIN)({"type": "lifespan"}, unused, unused)
    assert kinds == ["lifespan"]


NAMES = st.sampled_from([COOKIE, "a", "", f" {COOKIE} ", COOKIE.upper()])
VALUES = st.text('ab=! "', max_size=5)
CHUNKS = st.builds("{}{}{}".format, NAMES, st.sampled_from(["=", ""]), VALUES)


@given(st.lists(st.lists(CHUNKS, max_size=4).map(";".join), max_size=3))
def test_cookies_are_read_as_starlette_reads_them(headers: list[str]) -> None:
    scope = {"type": "http", "headers": [(b"cookie", each.encode()) for each in headers]}
    assert _cookie(headers) == HTTPConnection(scope).cookies.get(COOKIE)


def printed(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_middleware_and_hooks_need_no_framework() -> None:
    heavy = "{'starlette', 'httpx', 'redis'}"
    script = f"import sys, readreplica.asgi, readreplica.httpx; print({{*sys.modules}} & {heavy})"
    assert printed(script) == "set()"


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("import readreplica.redis", "redis is not installed: pip install 'mes-storage[redis]'"),
        (
            "import asyncio, readreplica; asyncio.run(readreplica.services_of('_pg._tcp.db'))",
            "dnspython is not installed: pip install 'mes-storage[srv]'",
        ),
        ("import partitions.migration_ops", "alembic is not installed: pip install 'mes-storage[alembic]'"),
        ("import sharding.migration_ops", "alembic is not installed: pip install 'mes-storage[alembic]'"),
    ],
    ids=["redis", "srv", "alembic of partitions", "alembic of sharding"],
)
def test_a_missing_extra_is_one_clear_line(script: str, line: str) -> None:
    hidden = "import sys; sys.modules.update(dict.fromkeys(['redis', 'dns', 'alembic']))\n"
    command = [sys.executable, "-c", hidden + script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].partition(": ")[2] == line


async def test_requests_side_by_side_have_tokens_of_their_own() -> None:
    seen: Seen = []
    middleware = around(seen, text=PLAIN)
    async with asyncio.TaskGroup() as group:
        for lsn in range(5):
            group.create_task(answered(middleware, (TOKEN_HEADER, at(lsn).encode())))
    assert sorted(token.positions["main"].lsn for token in seen if token) == [0, 1, 2, 3, 4]
