"""What a panel shows: values without language, zone or colour. Templates and `Language` make them visible.

A project's panels are made of the same values::

    WAITING = Panel(name="waiting", title=N_("Waiting jobs"), read=read_jobs)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from ops.options import Options

Tone = Literal["page", "ticket", "note", "right", ""]
"""How bad something is, as `mesctl problems` has it; empty says nothing."""


def N_(text: str) -> str:  # noqa: N802 (the name that gettext's tools look for)
    """Mark a text for the catalogue; it is translated where it is shown."""
    return text


class Size(NamedTuple):
    """A number of bytes."""

    value: float


class Seconds(NamedTuple):
    """A length of time."""

    value: float


class Share(NamedTuple):
    """A part of a whole, from 0 to 1."""

    value: float


class About(NamedTuple):
    """A number that PostgreSQL estimates."""

    value: float


class Since(NamedTuple):
    """A moment in the past: shown as how long ago that is."""

    value: datetime


class Code(NamedTuple):
    """A name as the databases have it; never translated."""

    value: str


class Sentence(NamedTuple):
    """What a verb of mesctl says, in English; it is translated where the catalogue has its pattern."""

    value: str


class State(NamedTuple):
    """A word that says how something is, and how bad that is."""

    value: str
    tone: Tone = ""


Cell = str | int | float | datetime | None | Size | Seconds | Share | About | Since | Code | Sentence | State
"""A text is a name from the catalogue of texts if that has it, else it is shown as it is."""


@dataclass(frozen=True, kw_only=True)
class PanelAction:
    """Something safe that a button does: the same as a verb, which may be run again at any time.

    Parameters:
        name: in the address of the button.
        label: on the button.
        question: what is confirmed before.
        run: does it, and returns what came of it in a line; it is called with the options of mesctl, with who
            presses the button, and with the argument.
    """

    name: str
    label: str
    question: str
    run: Callable[[Options, str, str], str]


@dataclass(frozen=True)
class Button:
    """A button of a row: an action of the panel, and the argument that it is called with."""

    action: str
    argument: str = ""


@dataclass(frozen=True)
class PanelRow:
    """A row of a table. `key` is what stays the same from one reading to the next."""

    key: str
    cells: Sequence[Cell]
    tone: Tone = ""
    command: str | None = None
    """What acts on it, ready to be copied."""

    button: Button | None = None


@dataclass(frozen=True, kw_only=True)
class PanelTable:
    """Rows under headings; what is longer than `shown` can be unfolded."""

    columns: Sequence[str]
    rows: Sequence[PanelRow]
    empty: str = N_("nothing")
    caption: str = ""
    shown: int = 12
    kind: Literal["table"] = "table"


class Figure(NamedTuple):
    """A number that is read at a glance."""

    label: str
    value: Cell
    tone: Tone = ""


@dataclass(frozen=True)
class Figures:
    """Some numbers in a line."""

    figures: Sequence[Figure]
    kind: Literal["figures"] = "figures"


class PlotLine(NamedTuple):
    """A series: its name, and its values by moment; a gap is None."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Series over time. `moments` are seconds since 1970, the same for all lines."""

    title: str
    moments: Sequence[float]
    lines: Sequence[PlotLine]
    unit: Literal["", "bytes", "seconds"] = ""
    kind: Literal["plot"] = "plot"


class ShardPart(NamedTuple):
    """A shard in the picture of the map; what could not be read is None."""

    name: str
    buckets: int
    rows: int | None
    bytes: int | None
    load: float | None
    """Transactions in a second."""


@dataclass(frozen=True, kw_only=True)
class ShardPicture:
    """Who owns which bucket, and how full the shards are."""

    tree: str
    version: int
    owners: Sequence[str]
    shards: Sequence[ShardPart]
    skew: float | None
    kind: Literal["shards"] = "shards"


@dataclass(frozen=True)
class ProblemList:
    """What is wrong, worst first; each is one of `mesctl problems --json`."""

    problems: Sequence[Any]
    kind: Literal["problems"] = "problems"

    @property
    def groups(self) -> Sequence[Sequence[Any]]:
        """Return what is as bad and is helped by the same command together, where the first of it stands."""
        found: dict[Any, list[Any]] = {}
        for number, each in enumerate(self.problems):
            found.setdefault((each.severity, each.command) if each.command else number, []).append(each)
        return list(found.values())


Block = PanelTable | Figures | Plot | ShardPicture | ProblemList


@dataclass(frozen=True, kw_only=True)
class PanelContent:
    """What was read for a panel at one time.

    Parameters:
        blocks: what is shown, from top to bottom.
        unreached: what could not be read, each with its reason in a line.
        tone: of the panel as a whole.
    """

    blocks: Sequence[Block] = ()
    unreached: Mapping[str, str] = field(default_factory=dict)
    tone: Tone = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A part of the page, which is read by itself.

    Parameters:
        name: in its address.
        title: its heading.
        read: reads what it shows; it may take as long as `seconds`, and is in a thread of its own.
        verb: what shows the same at a terminal.
        group: under which heading of the page it stands.
        every_seconds: from the end of one reading to the next, while somebody looks.
        seconds: what has not answered by then is shown as not reached.
        is_wide: it needs the whole width.
        actions: what its buttons do.
    """

    name: str
    title: str
    read: Callable[[Options], PanelContent]
    verb: str = ""
    group: str = N_("Now")
    every_seconds: float = 15.0
    seconds: float = 9.0
    is_wide: bool = False
    actions: Sequence[PanelAction] = ()

    def action(self, name: str) -> PanelAction | None:
        """Return an action of the panel; None if it has none of this name."""
        return next((each for each in self.actions if each.name == name), None)


WORST_FIRST: Sequence[Tone] = ("page", "ticket", "note", "right", "")


def worst(tones: Sequence[Tone]) -> Tone:
    """Return the worst of some tones; empty where there is none."""
    return min(tones, key=WORST_FIRST.index, default="")


def tone_of(rows: Iterable[PanelRow]) -> Tone:
    """Return how bad the worst of some rows is; where none is bad, all is right."""
    return worst([row.tone for row in rows]) or "right"
