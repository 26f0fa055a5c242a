"""Reads the panels while somebody looks: each in a thread of its own, with a deadline of its own.

A panel is read once at a time, however many browsers show it, and again when its pause is over. What has not
answered at its deadline is shown as not reached, beside what was read before; its thread goes on, and what it
brings at last is shown.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ops.options import Options
from ops.pages.content import Panel, PanelContent


@dataclass
class PanelState:
    """What is known of a panel. `version` is another one whenever something else is to be shown."""

    panel: Panel
    content: PanelContent | None = None
    read_at: datetime | None = None
    version: int = 0
    is_late: bool = False
    """The reading that is under way has passed the deadline."""

    began: float | None = None
    """When that reading began; None while there is none."""

    due: float = field(default=0.0)

    @property
    def is_reading(self) -> bool:
        """Whether a reading is under way."""
        return self.began is not None


class PanelBoard:
    """All panels of a page. It belongs to the event loop in which it is used.

    Parameters:
        options: of the run of mesctl.
        panels: in the order of the page.
        failed: what a panel shows of a reading that has raised an error.
    """

    def __init__(
        self, options: Options, panels: Iterable[Panel], *, failed: Callable[[Panel, Exception], PanelContent]
    ) -> None:
        self.states = {panel.name: PanelState(panel) for panel in panels}
        self._options = options
        self._failed = failed
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def panels(self) -> Sequence[Panel]:
        """The panels, in the order of the page."""
        return [state.panel for state in self.states.values()]

    def start_due(self) -> None:
        """Begin to read each panel whose pause is over."""
        now = time.monotonic()
        for state in self.states.values():
            if not state.is_reading and now >= state.due:
                state.began = now
                task = asyncio.create_task(self._read(state))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def hurry(self, name: str) -> None:
        """Have a panel read anew as soon as may be: something was done to what it shows."""
        self.states[name].due = 0.0

    async def wait(self, seen: Mapping[str, int], *, seconds: float) -> list[PanelState]:
        """Return the panels that have another version than the one that was seen; wait until there is one.

        Parameters:
            seen: the version of each panel that a browser shows.
            seconds: after this time it may be none.
        """
        until = time.monotonic() + seconds
        while True:
            self.start_due()
            changed = [state for name, state in self.states.items() if seen.get(name) != state.version]
            left = until - time.monotonic()
            if changed or left <= 0:
                return changed
            try:
                async with asyncio.timeout(min(left, 1.0)), self._changed:
                    await self._changed.wait()
            except TimeoutError:
                continue  # a pause may be over meanwhile

    async def _read(self, state: PanelState) -> None:
        answer = _in_thread(state.panel, self._options)
        try:
            try:
                content = await asyncio.wait_for(asyncio.shield(answer), state.panel.seconds)
            except TimeoutError:
                state.is_late = True
                await self._show(state)
                content = await answer
        except Exception as error:  # whatever it is, it belongs to this panel alone
            before = state.content or PanelContent()
            failure = self._failed(state.panel, error)
            state.content = replace(failure, blocks=before.blocks)
        else:
            state.content, state.read_at = content, datetime.now(UTC)
        state.is_late, state.began = False, None
        state.due = time.monotonic() + state.panel.every_seconds
        await self._show(state)

    async def _show(self, state: PanelState) -> None:
        state.version += 1
        async with self._changed:
            self._changed.notify_all()


def _in_thread(panel: Panel, options: Options) -> asyncio.Future[PanelContent]:
    """Read a panel in a daemon: one that hangs must not keep the process when it is to end."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[PanelContent] = loop.create_future()

    def put(content: PanelContent | None, error: Exception | None) -> None:
        if answer.cancelled():
            return
        if error is not None:
            answer.set_exception(error)
        elif content is not None:
            answer.set_result(content)

    def read() -> None:
        content, error = None, None
        try:
            content = panel.read(options)
        except Exception as fault:  # it is raised where it is awaited
            error = fault
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, content, error)

    threading.Thread(target=read, name=f"reads {panel.name}", daemon=True).start()
    return answer
