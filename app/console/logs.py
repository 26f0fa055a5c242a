"""The log lines of an order over all services, from the files of a folder; and those of the archive job."""

import gzip
import heapq
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer

from app.kit.logs import render_line
from app.log_events import SCHEMA
from ops.errors import OpsError
from ops.options import options_of, parse_duration
from ops.output import print_json
from partitions.archive_policy import ArchivePolicy
from sharding.ids import MAX_ID
from sharding.topology import Topology

FOLDER_VARIABLE = "MES_STORAGE_LOGS"
MOST_LINES = 10_000
POLL_SECONDS = 0.2

_MOST_BYTES = 4 * 2**20
_LEVELS = ("debug", "info", "warning", "error", "critical")
_SHOWN_APART = frozenset(
    {"@timestamp", "log.level", "message", "ecs.version", "service.name", "event.action", "event.outcome"}
    | {"order.id", "log.logger", "process.pid", "error.stack_trace"}
)

Line = Mapping[str, Any]
"""A log line, its fields by their whole names (`order.id`)."""


class NoLogs(OpsError):
    """There are no log files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"there are no log files in {folder}: name their folder by --folder or {FOLDER_VARIABLE}; "
            "`mesctl up` has them in its own"
        )


class OrderNotLogged(OpsError):
    """No line is about the order."""

    def __init__(self, order_id: int, folder: Path, *, files: int) -> None:
        self.order_id = order_id
        super().__init__(
            f"none of the {files} log files in {folder} has a line of order {order_id}: check the id and the "
            f"options; `mesctl orders trace {order_id}` asks the databases"
        )


@dataclass(frozen=True)
class LineFilter:
    """Which lines are wanted: of one order, not older than `since`, not less severe than `level`."""

    order_id: int
    since: datetime | None = None
    level: str = "debug"

    def parse(self, raw: bytes) -> Line | None:
        """Return a line that is wanted; None for another one, and for what is no line of ours."""
        if str(self.order_id).encode() not in raw:
            return None
        try:
            found = json.loads(raw)
        except ValueError:
            return None  # a traceback of the interpreter, or a line that a full disk has cut
        line = flat(found) if isinstance(found, dict) else {}
        return line if str(line.get("order.id")) == str(self.order_id) and self._is_wanted(line) else None

    def _is_wanted(self, line: Line) -> bool:
        level = str(line.get("log.level"))
        if level in _LEVELS and _LEVELS.index(level) < _LEVELS.index(self.level):
            return False
        return self.since is None or _time_of(line) >= self.since.isoformat()


def flat(nested: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return the fields of a line by their whole names."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _time_of(line: Line) -> str:
    return str(line.get("@timestamp", "")).replace("Z", "+00:00")


def log_files(folder: Path) -> list[Path]:
    """List the log files of a folder, the older ones of each as well.

    Raises:
        NoLogs: there are none.
    """
    names = ("*.log", "*.log.*", "*.log-*", "*.json")
    found = sorted({path for name in names for path in folder.glob(name) if path.is_file()})
    if not found:
        raise NoLogs(folder)
    return found


def find_lines(files: Iterable[Path], wanted: LineFilter, *, most: int = MOST_LINES) -> Sequence[Line]:
    """Read the lines about an order in the order of their time; the newest ones, if there are very many."""
    with ExitStack() as opened:
        # All at first: one that is renamed meanwhile is read once, and whole.
        streams = list(_open_each(files, opened))
        lines = (line for stream in streams for raw in stream if (line := wanted.parse(raw)) is not None)
        newest = heapq.nlargest(most, enumerate(lines), key=lambda each: (_time_of(each[1]), each[0]))
    return [line for _, line in reversed(newest)]


def _open_each(files: Iterable[Path], opened: ExitStack) -> Iterator[IO[bytes]]:
    known: set[tuple[int, int]] = set()
    for path in files:
        with suppress(FileNotFoundError):  # it was the oldest, and is gone
            stream = opened.enter_context(path.open("rb"))
            state = os.fstat(stream.fileno())
            if (state.st_dev, state.st_ino) not in known:
                known.add((state.st_dev, state.st_ino))
                yield cast("IO[bytes]", gzip.GzipFile(fileobj=stream)) if path.suffix == ".gz" else stream


@dataclass
class _Followed:
    """A file that is read as it grows: the place in it, and the begin of a line that has no end yet."""

    inode: int
    position: int
    begun: bytes = b""


@dataclass
class Follower:
    """Returns what is appended to the logs of a folder, whole lines, also when a file begins anew."""

    folder: Path
    _files: dict[Path, _Followed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in self.folder.glob("*.log"):
            state = path.stat()
            self._files[path] = _Followed(state.st_ino, state.st_size)

    def appended(self) -> Iterator[bytes]:
        """Return the lines since the last call, a bounded part of each file at once."""
        for path in sorted(self.folder.glob("*.log")):
            with suppress(FileNotFoundError), path.open("rb") as stream:
                state = os.fstat(stream.fileno())
                known = self._files.get(path)
                if known is None or known.inode != state.st_ino or known.position > state.st_size:
                    known = self._files[path] = _Followed(state.st_ino, 0)
                stream.seek(known.position)
                data = stream.read(_MOST_BYTES)
                known.position += len(data)
                *lines, known.begun = (known.begun + data).split(b"\n")
                yield from lines


def _level(text: str) -> str:
    if text not in _LEVELS:
        raise typer.BadParameter(f"{text!r} is no level: it is one of {', '.join(_LEVELS)}")
    return text


def logs(
    context: typer.Context,
    order_id: Annotated[int, typer.Argument(min=0, max=MAX_ID, help="The order's id.", show_default=False)],
    *,
    since: Annotated[
        timedelta | None,
        typer.Option(parser=parse_duration, metavar="DURATION", help="Only lines of this last while."),
    ] = None,
    level: Annotated[str, typer.Option(parser=_level, help="Only lines as severe as this.")] = "debug",
    follow: Annotated[
        timedelta | None,
        typer.Option(parser=parse_duration, metavar="DURATION", help="Go on for so long with new lines."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(envvar=FOLDER_VARIABLE, help="Where the log files are; else those of `mesctl up`."),
    ] = None,
) -> None:
    """Show the log lines of an order: of all services, in the order of their time, from older files too."""
    options = options_of(context)
    place = folder or options.home / "logs"
    files = log_files(place)
    wanted = LineFilter(order_id, None if since is None else datetime.now(UTC) - since, level)
    follower = Follower(place)
    found = find_lines(files, wanted)
    if not found and follow is None:
        raise OrderNotLogged(order_id, place, files=len(files))
    show: Callable[[Line], None] = _print_json_line if options.json else _print_line
    if options.json and follow is None:
        print_json([dict(line) for line in found])
        return
    for line in found:
        show(line)
    if follow is not None:
        _follow(follower, wanted, show, seconds=follow.total_seconds())


def _follow(follower: Follower, wanted: LineFilter, show: Callable[[Line], None], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for raw in follower.appended():
            if (line := wanted.parse(raw)) is not None:
                show(line)
        time.sleep(POLL_SECONDS)


def _print_json_line(line: Line) -> None:
    print(json.dumps(dict(line)), flush=True)


def _print_line(line: Line) -> None:
    print(line_text(line), flush=True)


def line_text(line: Line) -> str:
    """Return a line as a person reads it."""
    names = sorted(name for name in line if name not in _SHOWN_APART)
    said = " ".join(f"{name.removeprefix('mes_storage.')}={line[name]}" for name in names)
    what = line.get("event.action") or line.get("message")
    severe = str(line.get("log.level")).upper()
    return f"{line.get('@timestamp')} {line.get('service.name')} {severe} {what} {said}".rstrip()


def logged_of(folder: Path, order_id: int, *, most: int) -> Sequence[Line]:
    """Return the newest lines about an order; none where the folder has no logs."""
    try:
        return find_lines(log_files(folder), LineFilter(order_id), most=most)
    except NoLogs:
        return ()


def log_archived(
    topology: Topology, database: str, policy: ArchivePolicy, ids: Sequence[Sequence[Any]]
) -> None:
    """Write a line for each order that a batch has archived, to archive.log beside the services' logs.

    Without such a folder nothing is written; a line that cannot be written does not stop the job.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    folder = Path(named) if named else topology.path.parent / "logs"
    if policy.live != "orders_done" or not folder.is_dir():
        return
    render = partial(render_line, "archive", SCHEMA, "info", "order_archived")
    orders = [dict(zip(policy.row_id, each, strict=True))["order_id"] for each in ids]
    lines = [render(order_id=order_id, database=database, table=policy.archive) for order_id in orders]
    try:
        with (folder / "archive.log").open("ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        logging.getLogger("archive").warning("not logged", extra={"orders": len(orders), "error": str(error)})
