"""Routes that read a request strictly and answer it in time: small JSON, each key once, a deadline."""

import json
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Container,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, NoReturn, Protocol, get_origin
from urllib.parse import parse_qsl

from fastapi import params
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope

from app.kit.caller import Caller
from app.kit.errors import AppError, DependencyUnavailable
from app.kit.tasks import within
from readreplica.context import has_written

MOST_KEYS = 100
"""The most keys of one JSON object: each unknown one is a fault that is found and kept."""

DEEPEST = 20
"""How deep JSON may be."""

LONGEST_NUMBER = 40
"""The most characters of a number in JSON: Python takes quadratic time to read one."""

ANSWER_HEADERS = "answer_headers"
"""Where in the scope of a request the headers are that each of its answers has."""

# One more field and file than the largest form has, so that one which is sent twice has a name in the answer.
_FORM_LIMITS: Mapping[str, int] = {"max_files": 2, "max_fields": 5, "max_part_size": 4096}
_LONGEST_SHOWN = 60


class BodyMalformed(HTTPException):
    """The body or the query cannot be read, or can be read in two ways.

    An HTTPException, because FastAPI turns anything else that interrupts the reading of a body into one.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(400, fault)


class BodyTooLarge(HTTPException):
    """The body is larger than the limit.

    An HTTPException, because FastAPI turns anything else that interrupts the reading of a body into a 400.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(413, f"the request body is larger than {max_bytes} bytes: send less")


class RequestTimedOut(AppError):
    """The request took too long. If `in_doubt`, something of it may be committed."""

    def __init__(self, seconds: float, *, in_doubt: bool) -> None:
        self.seconds = seconds
        self.in_doubt = in_doubt
        super().__init__(f"the request was not answered within {seconds:g} s")


class Overloaded(DependencyUnavailable):
    """As many requests are worked on as may be; nothing of this one was done."""

    def __init__(self, most: int) -> None:
        self.most = most
        super().__init__(f"{most} requests are worked on, and no more may be")


class RequestLimit:
    """How many requests are worked on at once; one too many is refused before it costs anything."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take a place for the block.

        Raises:
            Overloaded: there is none.
        """
        if self._taken >= self._most:
            raise Overloaded(self._most)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


def parse_json(content: bytes) -> Any:
    """Read a JSON text: UTF-8, each key of an object once, nothing deep, long or not finite.

    Raises:
        BodyMalformed: it breaks one of these rules.
        json.JSONDecodeError: it is no JSON.
    """
    try:
        found = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object_of,
            parse_int=lambda figures: int(_short(figures)),
            parse_float=lambda figures: float(_short(figures)),
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise BodyMalformed(f"body: this is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        _refuse_depth()
    _check_depth(found)
    return found


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_KEYS:
        raise BodyMalformed(f"body: an object has {len(pairs)} keys; {MOST_KEYS} is the most")
    refuse_repeated("body", (key for key, _ in pairs))
    return dict(pairs)


def _short(figures: str) -> str:
    if len(figures) > LONGEST_NUMBER:
        raise BodyMalformed(f"body: a number is longer than {LONGEST_NUMBER} characters")
    return figures


def _refuse_constant(name: str) -> NoReturn:
    raise BodyMalformed(f"body: {name} is no JSON")


def _refuse_depth() -> NoReturn:
    raise BodyMalformed(f"body: this is deeper than {DEEPEST} levels") from None


def _check_depth(found: Any) -> None:
    level = [found]
    for _ in range(DEEPEST):
        level = [part for whole in level for part in _parts_of(whole)]
        if not level:
            return
    _refuse_depth()


def _parts_of(whole: Any) -> Iterable[Any]:
    return whole.values() if isinstance(whole, dict) else whole if isinstance(whole, list) else ()


def refuse_repeated(where: str, names: Iterable[str]) -> None:
    """Refuse names of which one stands twice: readers differ in which value counts.

    Raises:
        BodyMalformed: it names the first.
    """
    for name, times in Counter(names).items():
        if times > 1:
            raise BodyMalformed(f"{where}: {printable(name)!r} is given {times} times: send it once")


def _refuse_unknown(form: FormData, fields: Iterable[str]) -> None:
    for name in form.keys() - set(fields):
        known = ", ".join(sorted(fields))
        raise BodyMalformed(f"body: there is no field {printable(name)!r}, but {known}")


def printable(text: str) -> str:
    """Return a client's text, fit for an answer: short, and UTF-8."""
    return text[:_LONGEST_SHOWN].encode("utf-8", "replace").decode()


def content_length(scope: Scope) -> int:
    """Return what the client says that it will send; 0 if it does not say, or not in figures."""
    try:
        return int(Headers(scope=scope).get("content-length", "0"))
    except ValueError:
        return 0


class TooManyStreams(AppError):
    """A caller has as many streams of events open as it may."""

    def __init__(self, most: int) -> None:
        self.most = most
        super().__init__(f"{most} streams of events are open, and no more may be: close one")


class StreamLimit:
    """How many streams of events each caller may have open at once, of this process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def held(self, caller: Caller, content: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Return the content of a stream; the caller has a place until it ends.

        Raises:
            TooManyStreams: there is none.
        """
        if self._open[caller.subject] >= self._most:
            raise TooManyStreams(self._most)
        return self._passed(caller.subject, content)

    async def _passed(self, subject: str, content: AsyncIterator[Any]) -> AsyncIterator[Any]:
        # From the first part on: what is never begun never ends, and would keep its place.
        if self._open[subject] >= self._most:  # others have begun since it was asked for
            return
        self._open[subject] += 1
        try:
            async for part in content:
                yield part
        finally:
            self._open[subject] -= 1
            if not self._open[subject]:
                del self._open[subject]


class BodySize:
    """How many bytes a request's body has: as the client says, or what has come of it.

    A body whose length is not said is taken for one byte until it comes.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._known = content_length(scope) or int("transfer-encoding" in Headers(scope=scope))
        self._come = 0
        self._receive = receive

    def __call__(self) -> int:
        """Return how many there are, as far as that is known."""
        return max(self._known, self._come)

    async def receive(self) -> Message:
        """Receive what comes next, and count it."""
        message = await self._receive()
        self._come += len(message.get("body", b""))
        return message


class StrictRequest(Request):
    """A request whose JSON is small and read by `parse_json`, and whose form has each field once."""

    async def body(self) -> bytes:
        """Read a body that is no form.

        Raises:
            BodyTooLarge: it says so, or has grown so; nothing more is read.
        """
        if not hasattr(self, "_body"):
            most: int = self.app.state.max_json_bytes
            chunks, size = [], content_length(self.scope)
            if size <= most:
                size = 0
                async for chunk in self.stream():
                    size += len(chunk)
                    if size > most:
                        break
                    chunks.append(chunk)
            if size > most:
                raise BodyTooLarge(most)
            self._body = b"".join(chunks)
        return self._body

    async def read_body(self) -> None:
        """Read a body that is no form; `body` gives it.

        Raises:
            BodyTooLarge, BodyMalformed: it is too large, or ended too soon.
        """
        try:
            await self.body()
        except ClientDisconnect:
            raise BodyMalformed("body: it did not come to its end") from None

    async def refuse_body(self) -> None:
        """Refuse what says something where nothing is read: a client would believe that it was heard.

        Raises:
            BodyTooLarge, BodyMalformed: there is a body that is not empty, or `{}`.
        """
        await self.read_body()
        if (await self.body()).strip() not in {b"", b"{}"}:
            raise BodyMalformed("body: this takes none; who acts is who the credential says")

    async def json(self) -> Any:
        """Read JSON.

        Raises:
            BodyTooLarge, BodyMalformed, json.JSONDecodeError: see `body` and `parse_json`.
        """
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json

    async def read_form(
        self, fields: Collection[str], *, lists: Container[str] = (), is_open: bool = False
    ) -> None:
        """Read a form; `form` gives it.

        Parameters:
            fields: those that there are.
            lists: those of them that may be given several times.
            is_open: whether there may be others, which are not read.

        Raises:
            BodyMalformed, HTTPException: it is malformed, or has a field twice or one that is not known.
        """
        try:
            limits = {**_FORM_LIMITS, "max_fields": MOST_KEYS} if lists or is_open else _FORM_LIMITS
            form: FormData = await self._get_form(**limits)
        except HTTPException:
            raise
        except Exception as error:
            raise BodyMalformed(f"body: this is no form that can be read: {error}") from error
        try:
            single = (name for name, _ in form.multi_items() if name not in lists)
            refuse_repeated("body", (name for name in single if name in fields or not is_open))
            if not is_open:
                _refuse_unknown(form, fields)
        except BodyMalformed:
            await form.close()
            raise


class LetsIn(Protocol):
    """Decides which requests are worked on, and which are refused so that others are."""

    def admitted(
        self, caller: Caller, method: str, route: str, *, query: Mapping[str, str]
    ) -> AbstractAsyncContextManager[None]:
        """Wait for a place for the block, or raise."""


class KnowsCallers(Protocol):
    """Finds out who sends a request, and keeps out those who may not."""

    def calling(self, request: Request, route: str) -> AbstractAsyncContextManager[Caller]:
        """Let the block work for who sends a request, or raise."""


class LimitsCallers(Protocol):
    """Limits how much a caller may ask for."""

    def taken(
        self, caller: Caller, method: str, route: str, size: BodySize
    ) -> AbstractAsyncContextManager[dict[str, str]]:
        """Take what a request costs, for the block, or raise; gives headers of the answer."""

    async def take_orders(self, caller: Caller, count: int) -> dict[str, str]:
        """Take as many orders as a request was found to hold, or raise; return headers of the answer."""


class StrictRoute(APIRoute):
    """A route that reads strictly, and answers within `app.state.request_seconds` from the body's end.

    `app.state.access` says who may use it and `app.state.limits` how often, before anything is read;
    `app.state.admission` lets it in by what
    it is worth; `app.state.request_limit` is the last bound of all. A stream of events may go on for longer:
    `app.state.streams` bounds how many a caller has.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request to this route."""
        answer = super().get_route_handler()
        form = self.body_field.field_info if self.body_field is not None else None
        has_form = isinstance(form, params.Form)
        # FastAPI makes a model of a form's fields.
        annotation = getattr(form, "annotation", None)
        fields: Mapping[str, Any] = getattr(annotation, "model_fields", {})
        # Of a form that is a stranger's standard, which may have more fields than are read here.
        is_open = getattr(annotation, "model_config", {}).get("extra") == "ignore"

        lists = frozenset(name for name, each in fields.items() if get_origin(each.annotation) is list)

        async def of_caller(request: Request) -> Response:
            access: KnowsCallers = request.app.state.access
            limits: LimitsCallers = request.app.state.limits
            size = BodySize(request.scope, request.receive)
            async with (
                access.calling(request, self.path_format) as caller,
                limits.taken(caller, request.method, self.path_format, size) as headers,
            ):
                # For an error's answer, which is made elsewhere.
                every = request.scope[ANSWER_HEADERS] = {**request.scope.get(ANSWER_HEADERS, {}), **headers}
                response = await strictly(StrictRequest(request.scope, size.receive), caller)
                response.headers.update(every)
                if isinstance(response, StreamingResponse):
                    # It lasts beyond this, so its place is not one of those that are given back here.
                    streams: StreamLimit = request.app.state.streams
                    response.body_iterator = streams.held(caller, aiter(response.body_iterator))
                return response

        async def strictly(strict: StrictRequest, caller: Caller) -> Response:
            query = strict.scope["query_string"].decode("latin-1")
            refuse_repeated("query", (name for name, _ in parse_qsl(query, keep_blank_values=True)))
            if has_form:
                await strict.read_form(fields, lists=lists, is_open=is_open)
            elif self.body_field is not None:
                await strict.read_body()
            elif strict.method not in {"GET", "HEAD"}:
                await strict.refuse_body()
            seconds: float = strict.app.state.request_seconds
            limit: RequestLimit = strict.app.state.request_limit
            admission: LetsIn = strict.app.state.admission
            asked = admission.admitted(caller, strict.method, self.path_format, query=strict.query_params)
            try:
                # Not around the reading: slow clients would take the places of all others.
                async with asked:
                    with limit.taken():
                        return await within(answer(strict), seconds=seconds)
            except TimeoutError:
                raise RequestTimedOut(seconds, in_doubt=has_written()) from None

        return of_caller
