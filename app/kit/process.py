"""How a process of the application starts and ends: one line for what is wrong, patience for what is away."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from secrets import token_hex
from types import FrameType
from typing import NoReturn, TypeVar

import structlog
from sqlalchemy.exc import OperationalError, ProgrammingError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from app.kit.errors import AppError
from readreplica.errors import one_line
from sharding.errors import NodesExhausted, ShardingError

T = TypeVar("T")

_WRONG_USAGE = 2
_LONGEST_PAUSE_SECONDS = 2.0

# psycopg's OperationalError: the directory cannot be reached, or does not accept connections yet.
_PASSING = (OperationalError, NodesExhausted)
# ProgrammingError: the database has no such table, so it was not migrated.
_WRONG = (AppError, ShardingError, ProgrammingError)

log: structlog.stdlib.BoundLogger = structlog.get_logger("process")


def process_name() -> str:
    """Make a name that no other process has, nor this one a second time."""
    return f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"


def exit_on_signals() -> None:
    """Make SIGTERM and SIGINT end the process with status 0, until something else handles them."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _leave)


async def enter_with_retries(opened: AsyncExitStack, what: Callable[[], AbstractAsyncContextManager[T]]) -> T:
    """Enter a context, again and again while a database that it needs is away; say so once."""

    async def enter() -> T:
        return await opened.enter_async_context(what())

    patiently = AsyncRetrying(
        retry=retry_if_exception_type(_PASSING),
        wait=wait_exponential(multiplier=0.1, max=_LONGEST_PAUSE_SECONDS),
        before_sleep=_say_once,
        reraise=True,
    )
    return await patiently(enter)


def run_and_exit(process: str, work: Coroutine[None, None, None]) -> NoReturn:
    """Run the work and exit: with status 0, or 2 and one line if what it needs is wrong."""
    try:
        asyncio.run(work)
    except _WRONG as error:
        # The first line of it: SQLAlchemy's go on with the statement and a link.
        exit_with_fault(process, f"cannot start: {str(error).partition(chr(10))[0]}")
    sys.exit(0)


def exit_with_fault(process: str, fault: str) -> NoReturn:
    """Print what is wrong, a line for each fault, and exit with status 2."""
    sys.stderr.write("".join(f"{process}: {line}\n" for line in fault.splitlines()))
    sys.exit(_WRONG_USAGE)


def _say_once(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    if state.attempt_number == 1 and error is not None:
        log.warning("start_waits", error=one_line(error))


def _leave(_signum: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)
