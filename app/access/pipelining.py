"""One connection to Redis on which scripts are called without waiting for the answers before.

Answers come in the order of the calls. So a call that was given up, because its request has ended or Redis
was late, is known by its answer, whenever that comes, and what it took is given back then.
"""

import asyncio
import hashlib
import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import NoScriptError, RedisError, ResponseError

Command = tuple[str | bytes | int, ...]

GONE_SECONDS = 5.0
"""After so long without an answer the connection is given up: what is at its other end may be gone."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("limits")


@dataclass(eq=False, slots=True)
class _Call:
    """A command that was sent.

    Parameters:
        command: what is sent.
        answer: who waits for it; None for a command whose answer is of no use.
        undo: is sent where it may have been executed, and its answer is not waited for any more.
        sent_at: by the clock of the loop.
        is_again: whether the script was loaded for it.
    """

    command: Command
    answer: asyncio.Future[Any] | None = None
    undo: Command | None = None
    sent_at: float = 0.0
    is_again: bool = False


class PipelinedScript:
    """Calls one script, for as many requests at once as there are."""

    def __init__(self, redis: Redis, script: str) -> None:
        """Make a caller of a script, which connects when it is first used.

        Parameters:
            redis: says where Redis is, and who asks.
            script: in Lua.
        """
        self._pool = redis.connection_pool
        self._script = script
        self._sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._unanswered: deque[_Call] = deque()
        self._owed: deque[_Call] = deque()
        self._connection: AbstractConnection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def ask(
        self,
        keys: Sequence[str],
        arguments: Sequence[str | bytes],
        *,
        seconds: float,
        undo: Command | None = None,
    ) -> Any:
        """Return what the script answers; texts as bytes.

        Parameters:
            keys: of the script.
            arguments: of the script.
            seconds: how long the answer is waited for.
            undo: the command that gives back what the script takes: sent when an answer was not waited for.

        Raises:
            RedisError, OSError, TimeoutError: it does not answer, or not this.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call = _Call(("EVALSHA", self._sha, len(keys), *keys, *arguments), answer, undo)
        async with asyncio.timeout(seconds):
            if self._is_stalled(seconds):
                raise TimeoutError("it has not answered what was asked before")
            if self._connection is None:
                await self._open()
            try:
                await self._send(call)
                return await answer
            except asyncio.CancelledError:
                if undo is not None and answer.done() and not answer.cancelled():
                    await self.send(undo, seconds=seconds)  # it was answered in that moment
                raise
            finally:
                answer.cancel()  # if it is not there: then who reads the answers gives back what was taken

    async def tell(self, keys: Sequence[str], arguments: Sequence[str | bytes], *, seconds: float) -> None:
        """Call the script, and wait for no answer. A call that is lost is not repeated."""
        await self._pay(_Call(("EVALSHA", self._sha, len(keys), *keys, *arguments)), seconds)

    async def send(self, command: Command, *, seconds: float) -> None:
        """Send another command, and wait for no answer. It is sent again if the connection is lost."""
        await self._pay(_Call(command, undo=command), seconds)

    async def aclose(self, *, seconds: float) -> None:
        """Wait until all is answered, but not for long, and close the connection."""
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                while self._connection is not None and (self._unanswered or self._owed):
                    last = _Call(("PING",), asyncio.get_running_loop().create_future())
                    await self._send(last)
                    assert last.answer is not None
                    await last.answer
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            await self._close(self._connection, RedisAway("the connection was closed"))

    def _is_stalled(self, seconds: float) -> bool:
        """Return whether what was asked before waits for its answer longer than it should."""
        if not self._unanswered:
            return False
        waited = asyncio.get_running_loop().time() - self._unanswered[0].sent_at
        if waited > GONE_SECONDS and self._connection is not None:
            self._lose(self._connection, RedisAway(f"no answer in {waited:.0f} s"))
            return False
        return waited > seconds

    async def _pay(self, call: _Call, seconds: float) -> None:
        """Send a command now, or when the connection is there again."""
        self._owed.append(call)
        if self._connection is None or self._is_stalled(seconds):
            return
        # What could not be sent is noticed by who reads the answers.
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self._send_owed()

    async def _send_owed(self) -> None:
        while self._owed and self._connection is not None:
            await self._send(self._owed.popleft())

    async def _send(self, call: _Call) -> None:
        connection = self._connection
        if connection is None:
            raise RedisAway("the connection was lost")
        packed = connection.pack_command(*call.command)
        call.sent_at = asyncio.get_running_loop().time()
        # Nothing comes between this and the writing: answers come in this order.
        self._unanswered.append(call)
        await connection.send_packed_command(packed, check_health=False)

    async def _open(self) -> None:
        """Connect, once for all that wait for it, and to its end even if they give up."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._opening)

    async def _connect(self) -> None:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
        # Each call has its own deadline; with one of the connection each writing would be a task.
        connection.socket_timeout = None
        self._connection = connection
        self._reading = asyncio.get_running_loop().create_task(self._read(connection))
        await self._send_owed()

    async def _read(self, connection: AbstractConnection) -> None:
        """Hand out the answers until the connection ends."""
        try:
            while True:
                answer: Any
                try:
                    answer = await connection.read_response(disable_decoding=True, timeout=math.inf)
                except ResponseError as refusal:
                    answer = refusal
                await self._deliver(self._unanswered.popleft(), answer)
        except (RedisError, OSError) as error:
            await self._close(connection, error)

    async def _deliver(self, call: _Call, answer: Any) -> None:
        waits = call.answer is not None and not call.answer.done()
        if isinstance(answer, NoScriptError) and not call.is_again and (waits or call.answer is None):
            call.is_again = True
            await self._send(_Call(("SCRIPT", "LOAD", self._script)))
            await self._send(call)
        elif waits:
            assert call.answer is not None
            if isinstance(answer, Exception):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)
        elif isinstance(answer, Exception):
            log.warning("limits_unknown", error=str(answer))
        elif call.answer is not None and call.undo is not None:
            self._owed.append(_Call(call.undo, undo=call.undo))
        await self._send_owed()

    def _lose(self, connection: AbstractConnection, error: Exception) -> None:
        """Forget a connection. What may have been taken by it is given back by the next one."""
        if self._connection is not connection:
            return
        self._connection = None
        if self._reading is not None and self._reading is not asyncio.current_task():
            self._reading.cancel()
        lost, self._unanswered = self._unanswered, deque()
        for call in lost:
            if call.answer is not None and not call.answer.done():
                call.answer.set_exception(error)
            if call.undo is not None:
                self._owed.append(_Call(call.undo, undo=call.undo))

    async def _close(self, connection: AbstractConnection, error: Exception) -> None:
        self._lose(connection, error)
        await connection.disconnect(nowait=True)
