"""Measure files that strangers sent without letting them harm the worker.

Each file is read in a child of its own (`app.pricing.zygote`), within limits that the kernel keeps. However
the child ends, the caller gets an answer: measures, or a sentence for the customer.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from opentelemetry.trace import StatusCode
from opentelemetry.util.types import AttributeValue
from pydantic import TypeAdapter, ValidationError

from app.kit.telemetry import tracer
from app.pricing.errors import (
    FileTooLarge,
    ReaderCrashed,
    SandboxTimedOut,
    SandboxUnavailable,
    TooLong,
    TooMuchMemory,
)
from app.pricing.measurement import (
    EXAMINED,
    PREVIEW,
    SHAPES,
    Examined,
    KnownShape,
    Outcome,
    Preview,
    ShapeFacts,
    Unmeasurable,
)

START_SECONDS = 60.0
"""How long a zygote may take to load the mesh libraries on a machine that is busy."""
PREVIEW_SECONDS = 10
GRACE_SECONDS = 10.0
"""How much longer than its child a zygote may take to answer."""

# The child reads what strangers wrote; it has no need of the worker's passwords.
ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL")

# The clock ran out, the child was killed, or it could not even begin.
MACHINE_AT_FAULT = {-signal.SIGALRM, -signal.SIGKILL, -signal.SIGTERM, os.EX_OSERR}

# "cannot allocate memory for thread-local data": the dynamic loader's way to say that memory has run out.
LOADER_OUT_OF_MEMORY = 127

MAX_LINE_BYTES = 2**25
"""What a zygote may say at once: a shape that is to be kept is 8 MB of it."""
FACTS: TypeAdapter[ShapeFacts] = TypeAdapter(ShapeFacts)
Task = Literal["measure", "preview"]


class Shapes(Protocol):
    """The pieces that were measured, and are known again in other files."""

    async def find(self, facts: ShapeFacts) -> list[KnownShape]:
        """Return the known pieces that a piece of these facts may be."""

    async def keep(self, found: Examined) -> None:
        """Keep what was measured, or take note that it was known."""


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What one file may cost.

    Parameters:
        memory_bytes: address space of the child; about 150 MB of it are the libraries.
        cpu_seconds: processor time; it depends on the file alone, so exceeding it is final.
        wall_seconds: time by the clock; it depends on the machine's load as well, so it is not.
        file_bytes: size of the file; a larger one is not opened.
    """

    memory_bytes: int = 3 * 2**30
    cpu_seconds: int = 60
    wall_seconds: float = 120.0
    file_bytes: int = 64 * 2**20

    def of_preview(self) -> "SandboxLimits":
        """Return what showing a file may cost: it is done while there is nothing to price, and no longer."""
        return replace(
            self,
            cpu_seconds=min(self.cpu_seconds, PREVIEW_SECONDS),
            wall_seconds=min(self.wall_seconds, 3.0 * PREVIEW_SECONDS),
        )


class Sandbox:
    """A few zygotes, started when needed and used again; one file at a time in each.

    Use it as an async context manager: leaving ends every process that it started.
    """

    def __init__(self, *, limits: SandboxLimits | None = None, concurrency: int = 2) -> None:
        """Set up a sandbox without starting anything.

        Parameters:
            limits: what one file may cost.
            concurrency: how many files are measured at once; more wait.
        """
        self._limits = limits or SandboxLimits()
        self._turn = asyncio.Semaphore(concurrency)
        self._idle: list[_Zygote] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._idle:
            await self._idle.pop().kill()

    async def measure(self, path: Path, *, suffix: str, shapes: Shapes | None = None) -> Outcome:
        """Measure the model in a file.

        Parameters:
            path: the file.
            suffix: its format: `stl`, `obj` or `3mf`.
            shapes: where the piece may be known; None for nowhere.

        Returns:
            the measures, or why there are none; `final` says that the file is at fault.

        Raises:
            SandboxUnavailable: no file can be measured here.
        """
        try:
            size = (await asyncio.to_thread(path.stat)).st_size
        except OSError:  # the file is gone
            return Unmeasurable(reason=str(SandboxTimedOut()), final=False)
        if size > self._limits.file_bytes:
            # Not remembered: the limit may be another one tomorrow.
            return Unmeasurable(reason=str(FileTooLarge(size, self._limits.file_bytes)), final=False)
        try:
            exit_code, answer = await self._ask(path, suffix, "measure", self._limits, shapes)
        except SandboxTimedOut as error:
            return Unmeasurable(reason=str(error), final=False)
        found = judge(exit_code, answer, self._limits)
        if shapes is not None:
            await shapes.keep(found)
        return found.outcome

    async def preview(self, path: Path, *, suffix: str) -> Preview | None:
        """Make what is shown of the model in a file; None if there is nothing to see, or no way to make it.

        Parameters:
            path: the file.
            suffix: its format: `stl`, `obj` or `3mf`.

        Raises:
            SandboxUnavailable: no file can be read here.
        """
        try:
            exit_code, answer = await self._ask(path, suffix, "preview", self._limits.of_preview(), None)
        except SandboxTimedOut:
            return None
        with contextlib.suppress(ValidationError):
            return PREVIEW.validate_json(answer) if exit_code == os.EX_OK else None
        return None

    async def _ask(
        self, path: Path, suffix: str, task: Task, limits: SandboxLimits, shapes: Shapes | None
    ) -> tuple[int, str]:
        """Have one file read; return the child's exit code and answer.

        Raises:
            SandboxTimedOut: the zygote was killed or stopped.
            SandboxUnavailable: no file can be read here.
        """
        async with self._turn:
            zygote = self._idle.pop() if self._idle else await _Zygote.start()
            try:
                async with asyncio.timeout(limits.wall_seconds + GRACE_SECONDS):
                    answered = await zygote.ask(path, suffix, task, limits, shapes)
            except (TimeoutError, EOFError, OSError) as error:
                await zygote.kill()
                raise SandboxTimedOut from error
            except BaseException:
                await zygote.kill()
                raise
            self._idle.append(zygote)
        return answered


def judge(exit_code: int, answer: str, limits: SandboxLimits) -> Examined:
    """Decide what the end of a child means.

    Parameters:
        exit_code: of the child; a signal is a negative number.
        answer: what it wrote. It is checked like any input: the child has read a stranger's file.
        limits: the limits that it had.
    """
    if exit_code == os.EX_OK:
        with contextlib.suppress(ValidationError):
            return EXAMINED.validate_json(answer)
    return Examined(outcome=_failure(exit_code, limits))


def _failure(exit_code: int, limits: SandboxLimits) -> Unmeasurable:
    if exit_code == -signal.SIGXCPU:
        return Unmeasurable(reason=str(TooLong(limits.cpu_seconds)))
    if exit_code == LOADER_OUT_OF_MEMORY:
        return Unmeasurable(reason=str(TooMuchMemory()))
    if exit_code in MACHINE_AT_FAULT:
        return Unmeasurable(reason=str(SandboxTimedOut()), final=False)
    return Unmeasurable(reason=str(ReaderCrashed()))


def _trace_child(reply: Mapping[str, Any], suffix: str, task: Task) -> None:
    """Make the span of a child that has ended, by the times that its zygote has taken."""
    facts: dict[str, AttributeValue] = {
        "mes_storage.model.format": suffix,
        "process.exit.code": int(reply["exit_code"]),
    }
    span = tracer.start_span(f"{task} model", attributes=facts, start_time=int(reply["began_ns"]))
    if reply["exit_code"] != os.EX_OK:
        span.set_status(StatusCode.ERROR)
    span.end(int(reply["ended_ns"]))


async def _known(asked: str, shapes: Shapes | None) -> list[KnownShape]:
    """Answer a child's question; what it asks is checked, for the child has read a stranger's file."""
    if shapes is None:
        return []
    try:
        facts = FACTS.validate_json(asked)
    except ValidationError:
        return []
    return await shapes.find(facts)


class _Zygote:
    """The worker's end of one zygote process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> Self:
        """Start a zygote and wait until it is ready.

        Raises:
            SandboxUnavailable: it did not become ready.
        """
        kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        zygote = cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "app.pricing.zygote",
                stdin=PIPE,
                stdout=PIPE,
                limit=MAX_LINE_BYTES,
                # One thread: a process with more of them must not fork.
                env=kept | {"OPENBLAS_NUM_THREADS": "1"},
                # Ctrl-C at a terminal is for the worker to handle.
                start_new_session=True,
            )
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                await zygote._reply()
        except (TimeoutError, EOFError) as error:
            raise SandboxUnavailable(await zygote.kill()) from error
        except BaseException:
            await zygote.kill()
            raise
        return zygote

    async def ask(
        self, path: Path, suffix: str, task: Task, limits: SandboxLimits, shapes: Shapes | None
    ) -> tuple[int, str]:
        """Ask for one file, and tell its child what is known; return the child's exit code and answer.

        Raises:
            EOFError, OSError: the zygote is gone.
        """
        confinement = {name: value for name, value in asdict(limits).items() if name != "file_bytes"}
        await self._send(
            json.dumps({"path": str(path), "suffix": suffix, "task": task} | confinement).encode()
        )
        reply = await self._reply()
        if "asks" in reply:
            await self._send(SHAPES.dump_json(await _known(reply["asks"], shapes)))
            reply = await self._reply()
        with contextlib.suppress(Exception):  # a span is not worth a price
            _trace_child(reply, suffix, task)
        return int(reply["exit_code"]), str(reply["answer"])

    async def _send(self, line: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(line + b"\n")
        await stdin.drain()

    async def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError
        return dict(json.loads(line))

    async def kill(self) -> int:
        """End the zygote and, with it, its child: they are one process group. Return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return await self._process.wait()
