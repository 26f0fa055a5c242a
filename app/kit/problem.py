"""The one place where errors become answers: problem+json, as RFC 9457 has it.

`type` and `title` come from the error's class, `detail` is its message, and the facts that it carries
stand beside them. The HTTP status of a service's own errors is in the table that `install` is given.
"""

import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.kit.errors import AppError, DependencyUnavailable
from app.kit.strict import ANSWER_HEADERS, Overloaded, RequestTimedOut, printable
from readreplica.errors import (
    CommitInDoubt,
    CommitLost,
    NotThePrimary,
    ReplicasTooStale,
    TokenMalformed,
    TwoPrimaries,
    Unavailable,
    WritesRefused,
)
from sharding.errors import (
    BucketNotOwned,
    CursorMalformed,
    InvalidShardKey,
    NodeLeaseExpired,
    NodesExhausted,
    OtherShard,
    ShardFailed,
    ShardTimedOut,
)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
_PERSON_SECONDS = 60
_MOST_FAULTS = 20
_READ_ONLY = "25006"

Statuses = Mapping[type[Exception], int]
"""The HTTP status of errors that are raised on purpose."""

ShowsErrors = Callable[[Request, Mapping[str, Any], Mapping[str, str]], Response | None]
"""`app.state.show_error`: answers a problem for people, with its headers; None to answer by problem+json."""


def problem_type(title: str) -> str:
    """Make the `type` of a problem: a name that programs compare, not an address."""
    return f"urn:mes-storage:problem:{title.lower().replace(' ', '-')}"


class Problem(BaseModel):
    """An error, as the client gets it; facts about it may stand beside these fields."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str


_EXAMPLES: Mapping[int, tuple[str, str]] = {
    400: ("Malformed request", "header Idempotency-Key: Field required"),
    401: ("Not authenticated", "this needs a credential: send an API key as `Authorization: Bearer`"),
    403: ("Not allowed", "partner may not do this at the door staff: POST /v1/orders/{order_id}/take"),
    404: ("Unknown order", "there is no order 17: check the id"),
    409: ("Illegal transition", "order 17 is SHIPPED and cannot become PACKAGING"),
    412: ("Changed meanwhile", "order 17 has changed since you have read it: read it again, and decide anew"),
    413: ("Model too large", "the model is larger than 20971520 bytes"),
    415: ("Unsupported model type", "'ring.step' is not a 3D model"),
    422: ("Invalid request", "body quantity: Input should be greater than or equal to 1"),
    429: ("Intake full", "1000 partners' orders wait to be placed, and no more may"),
    503: ("Temporarily unavailable", "something that this needs cannot be reached"),
}


def described(status: int) -> dict[str, Any]:
    """Describe an error answer for the OpenAPI document."""
    title, detail = _EXAMPLES[status]
    example = {
        "type": problem_type(title),
        "title": title,
        "status": status,
        "detail": detail,
        "instance": "/v1/orders/17",
    }
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema(), "example": example}}
    return {"description": HTTPStatus(status).phrase, "content": content}


_ALWAYS = frozenset({400, 401, 403, 422, 429, 503})


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the error answers of an endpoint; some can always come."""
    return {status: described(status) for status in sorted({*statuses, *_ALWAYS})}


_OF_LIBRARIES: Statuses = {CursorMalformed: 422}

_UNAVAILABLE = (
    OperationalError,
    PoolTimeout,
    DependencyUnavailable,
    NodeLeaseExpired,
    NodesExhausted,
    ShardTimedOut,
    Unavailable,
    NotThePrimary,
    BucketNotOwned,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("problem")


def install(app: FastAPI, statuses: Statuses) -> None:
    """Answer every error of an application by problem+json.

    Parameters:
        app: the application.
        statuses: the HTTP status of each error that the application raises on purpose.
    """
    for error, status in {**_OF_LIBRARIES, **statuses}.items():
        app.add_exception_handler(error, _foreseen(status))
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(ShardFailed, _database)
    for unavailable in _UNAVAILABLE:
        app.add_exception_handler(unavailable, _unavailable)
    app.add_exception_handler(CommitInDoubt, _in_doubt)
    app.add_exception_handler(RequestTimedOut, _timed_out)
    for misrouted in (OtherShard, InvalidShardKey):
        app.add_exception_handler(misrouted, _misrouted)
    app.add_exception_handler(Exception, _unforeseen)


def _answer(
    request: Request,
    *,
    status: int,
    name: str,
    detail: str,
    facts: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Make the response; `name` is the problem's, in words. A refusal is logged, a failure has been."""
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        log.info("request_refused", **_asked(request, status), error=f"{name}: {detail}")
    content = {
        **(facts or {}),
        "type": problem_type(name),
        "title": name,
        "status": status,
        "detail": detail,
        "instance": printable(request.scope["path"]),
    }
    all_headers = {**request.scope.get(ANSWER_HEADERS, {}), **(headers or {})}
    # In front of an application, as where a malformed request is refused, there is none to ask.
    app = request.scope.get("app")
    shows: ShowsErrors | None = getattr(app.state, "show_error", None) if app is not None else None
    shown = shows(request, content, all_headers) if shows is not None else None
    if shown is not None:
        return shown
    return JSONResponse(content, status, headers=all_headers, media_type=MEDIA_TYPE)


def _asked(request: Request, status: int) -> dict[str, Any]:
    """Return what a line about a request holds of it."""
    return {"path": request.scope["path"], "method": request.scope["method"], "http_status": status}


def _foreseen(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        facts = _facts(error)
        seconds = facts.get("retry_after_seconds")
        headers = {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        headers |= error.answer_headers() if isinstance(error, AppError) else {}
        return _answer(
            request, status=status, name=_name(error), detail=str(error), facts=facts, headers=headers
        )

    return answer


def _name(error: Exception) -> str:
    """Turn the class's name into words: `IllegalTransition` is an "Illegal transition"."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).capitalize()


def _facts(error: Exception) -> dict[str, Any]:
    """Return what the error carries, fit for JSON; an id becomes a string, for JavaScript's sake."""
    facts = {name: fact for name, fact in vars(error).items() if not name.startswith("_")}
    return {
        name: str(fact) if name == "order_id" else to_jsonable_python(fact) for name, fact in facts.items()
    }


async def _http(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses: an unknown path, a wrong method, a broken or too large body."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    detail = error.detail
    if detail == phrase:  # the framework's own text, which says nothing
        path = printable(request.scope["path"])
        detail = f"{request.method} {path}: {phrase.lower()}; see /docs for what there is"
    return _answer(
        request, status=error.status_code, name=phrase.capitalize(), detail=detail, headers=error.headers
    )


async def _invalid(request: Request, error: Exception) -> Response:
    """Answer a request that does not fit its description; a broken header or broken JSON is a 400."""
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    kinds = {fault["type"] for fault in faults}
    malformed = "json_invalid" in kinds or any(fault["loc"][0] == "header" for fault in faults)
    listed = [{"where": _where(fault["loc"]), "fault": _say(fault)} for fault in faults[:_MOST_FAULTS]]
    return _answer(
        request,
        status=400 if malformed else 422,
        name="Malformed request" if malformed else "Invalid request",
        detail="; ".join(f"{fault['where']}: {fault['fault']}" for fault in listed[:5]),
        facts={"faults": listed},
    )


def _where(location: Sequence[str | int]) -> str:
    """Name the place of a fault, cut off: an unknown key is the client's, and may be as long as a body."""
    place = " ".join([str(location[0]), ".".join(str(part) for part in location[1:])]).strip()
    return printable(place)


def _say(fault: Mapping[str, Any]) -> str:
    """Return what is wrong; never what was sent, which may be long, or private."""
    if fault["type"] == "json_invalid":
        return f"this is not JSON: {fault['ctx']['error']} at character {fault['loc'][-1]}"
    return str(fault["msg"])


class _Outage(NamedTuple):
    """Why something cannot be had now, in words for the client."""

    name: str
    why: str
    retry_after_seconds: float = RETRY_AFTER_SECONDS


_BUSY = _Outage("Overloaded", "more is asked of the service than it can do now; nothing was written")
_OUTAGES: Mapping[type[object], _Outage] = {
    NotThePrimary: _Outage("Not the primary", "the database has another primary by now; nothing was written"),
    BucketNotOwned: _Outage(
        "Bucket not owned", "the order is being moved to another shard; nothing was written"
    ),
    CommitLost: _Outage(
        "Commit lost", "the database was lost while it committed, and has none of it; nothing was written"
    ),
    Overloaded: _BUSY,
    PoolTimeout: _BUSY,
    RequestTimedOut: _Outage(
        "Request timed out", "something that this needs did not answer in time; nothing was written"
    ),
}
_AWAY = _Outage("Temporarily unavailable", "something that this needs cannot be reached; nothing is lost")


def _outage(error: BaseException | None) -> _Outage:
    """Return what an error means to a client; addresses and positions are for the log."""
    match error:
        case ReplicasTooStale(retry_after_seconds=seconds):
            why = (
                "no copy of the data is as fresh as this request needs it, and the primary has no room for it"
            )
            return _Outage("Replicas too stale", why, seconds)
        case WritesRefused(retry_after_seconds=seconds):
            why = "the database is being switched over to another server; nothing was written"
            return _Outage("Writes refused", why, seconds)
        case TwoPrimaries():
            why = "two servers claim to hold the truth, and a person must decide; nothing was written"
            return _Outage("Two primaries", why, _PERSON_SECONDS)
        case _:
            return _OUTAGES.get(type(error), _AWAY)


async def _unavailable(request: Request, error: Exception) -> Response:
    """Answer that something this service needs is away; the details are for the log."""
    log.error("unavailable", **_asked(request, 503), error=str(error), error_type=type(error).__name__)
    outage = _outage(_cause(error))
    seconds = max(1, math.ceil(outage.retry_after_seconds))
    return _answer(
        request,
        status=503,
        name=outage.name,
        detail=f"{outage.why}: repeat the request, with the same Idempotency-Key if it has one, "
        f"in {seconds} seconds",
        headers={"Retry-After": str(seconds)},
    )


def _cause(error: Exception) -> BaseException | None:
    """Find the error inside a scatter's, or inside SQLAlchemy's."""
    cause = error.__cause__ if isinstance(error, ShardFailed) else error
    return cause.orig if isinstance(cause, DBAPIError) and isinstance(cause.orig, NotThePrimary) else cause


async def _in_doubt(request: Request, error: Exception) -> Response:
    """Answer that it is unknown whether the request was carried out: the primary did not answer that either.

    To repeat it is safe. With its key, a request finds the order that it has made; and a change of an order
    that its actor has made already is answered as it was (`app.orders.is_repeated`).
    """
    log.error("commit_in_doubt", **_asked(request, 503), error=str(error))
    return _answer(
        request,
        status=503,
        name="Commit in doubt",
        detail="the database did not answer while it committed, and it could not be asked since, so it "
        "is unknown whether this was done: repeat the request as it was, with the same Idempotency-Key if it "
        f"has one, in {RETRY_AFTER_SECONDS} seconds; what was done is not done twice",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


async def _timed_out(request: Request, error: Exception) -> Response:
    """Answer that the request took too long; it was ended, unless it had begun to commit."""
    assert isinstance(error, RequestTimedOut)
    return await (_in_doubt if error.in_doubt else _unavailable)(request, error)


async def _misrouted(request: Request, error: Exception) -> Response:
    """Answer a unit of work that named a key of another shard: a fault of ours, which repeating keeps."""
    log.error("misrouted", **_asked(request, 500), exc_info=error)
    return _internal_error(request)


def content_of(error: Exception, status: int, instance: str) -> dict[str, Any]:
    """Return the content of the problem that an error is, for an answer that holds several."""
    return {
        **_facts(error),
        "type": problem_type(_name(error)),
        "title": _name(error),
        "status": status,
        "detail": str(error),
        "instance": instance,
    }


def refused_token(request: Request, fault: TokenMalformed, *, header: str) -> Response:
    """Answer a causal token that is not good. The empty header asks the client to forget it."""
    detail = f"header {header}: {fault}, or leave it out"
    facts = {"fault": fault.fault}
    return _answer(request, status=400, name=_name(fault), detail=detail, facts=facts, headers={header: ""})


def encoding_refused(request: Request) -> Response:
    """Answer a body that is compressed: a small one may become very large, so none is read."""
    detail = "header Content-Encoding: send the body as it is"
    headers = {"Accept-Encoding": "identity"}
    return _answer(request, status=415, name="Content encoding refused", detail=detail, headers=headers)


def refused(request: Request, detail: str, *, headers: Mapping[str, str]) -> Response:
    """Answer a request that cannot be read, outside of every route."""
    return _answer(request, status=400, name="Malformed request", detail=detail, headers=headers)


async def _database(request: Request, error: Exception) -> Response:
    """Answer a database error: what heals by itself is a 503, anything else is a bug."""
    if _heals(error.__cause__ if isinstance(error, ShardFailed) else error):
        return await _unavailable(request, error)
    return await _unforeseen(request, error)


def _heals(error: BaseException | None) -> bool:
    """Return whether it is a lost connection, or a primary that was just demoted, and no wrong statement."""
    if isinstance(error, DBAPIError):
        demoted = getattr(error.orig, "sqlstate", None) == _READ_ONLY
        return demoted or error.connection_invalidated or isinstance(error, OperationalError)
    return isinstance(error, _UNAVAILABLE)


async def _unforeseen(request: Request, error: Exception) -> Response:
    """Answer a fault of ours, without its internals, which are logged."""
    log.error("unforeseen", **_asked(request, 500), exc_info=error)
    return _internal_error(request)


def _internal_error(request: Request) -> Response:
    return _answer(
        request,
        status=500,
        name="Internal error",
        detail="this is a fault of the service and not of the request; it has been logged",
    )
