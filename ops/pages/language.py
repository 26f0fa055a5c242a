"""What the pages say in the reader's language: texts by catalogues, numbers and times by CLDR, through Babel.

`locale/CODE.po` is compiled when it is first used. What verbs of mesctl say is English with facts in it; the
catalogue has patterns for it under the context `verb`, such as `does not answer: %(reason)s`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from babel import Locale
from babel.dates import format_datetime
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent
from babel.support import NullTranslations, Translations
from babel.units import format_unit
from markupsafe import Markup, escape

from ops.pages import content

LANGUAGES = ("en", "ru")
NAMES: Mapping[str, str] = {"en": "English", "ru": "Русский"}
CATALOGUES = Path(__file__).with_name("locale")
VERB = "verb"
_PLACE = re.compile(r"%\((\w+)\)s")
NOTHING = Markup('<span class="none">&ndash;</span>')
_LONG = (("day", 86_400), ("hour", 3_600), ("minute", 60))
"""As `mesctl problems` has ages: two of a unit are written in it."""

NUMBERS = frozenset({int, float, content.Size, content.Seconds, content.Share, content.About})
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def choose_language(cookie: str | None, header: str | None) -> str:
    """Return the language of a reader: the one that was chosen, else the best of the browser's."""
    if cookie in LANGUAGES:
        return cookie
    wanted: list[tuple[float, str]] = []
    for part in (header or "").split(",")[:20]:
        name, _, quality = part.strip().partition(";q=")
        try:
            wanted.append((-float(quality or 1), name.partition("-")[0].lower()))
        except ValueError:
            continue
    return next((name for _, name in sorted(wanted, key=lambda each: each[0]) if name in LANGUAGES), "en")


class Language:
    """Texts, numbers and times of one language."""

    def __init__(self, code: str, folders: Iterable[Path] = ()) -> None:
        self.code = code
        self.locale = Locale.parse(code)
        self._folders = [CATALOGUES, *folders]
        self._translations: NullTranslations = NullTranslations()
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for folder in self._folders:
            self.add(folder)

    def add(self, folder: Path) -> None:
        """Add the catalogue of a folder: a project has its own."""
        file = folder / f"{self.code}.po"
        if not file.is_file():
            return
        with file.open("rb") as source:
            catalogue = read_po(source, locale=self.code)
        compiled = BytesIO()
        write_mo(compiled, catalogue)
        compiled.seek(0)
        found = Translations(compiled)
        if isinstance(self._translations, Translations):
            self._translations.merge(found)
        else:
            self._translations = found
        for message in catalogue:
            if message.context == VERB and message.string:
                self._patterns.append((_pattern(str(message.id)), str(message.string)))

    def text(self, message: str, **values: object) -> str:
        """Translate a text."""
        found = str(self._translations.gettext(message)) if message else ""
        return found % values if values else found

    def count(self, one: str, many: str, number: int) -> str:
        """Translate a text with a number in it, which has a form for each kind of number."""
        found = str(self._translations.ngettext(one, many, number))
        return found % {"number": self.number(number)}

    def sentence(self, said: str) -> str:
        """Translate what a verb says, as far as there is a pattern for it."""
        for pattern, translated in self._patterns:
            if found := pattern.fullmatch(said):
                return translated % {name: self.sentence(value) for name, value in found.groupdict().items()}
        return said

    def number(self, value: float) -> str:
        """Write a number with the marks of the language."""
        if isinstance(value, int) or abs(value) >= 1_000:
            return format_decimal(round(value), locale=self.locale)
        return format_decimal(value, format="#,##0.##", locale=self.locale)

    def size(self, value: float) -> str:
        """Write a number of bytes: `12.3 GiB`."""
        unit = 0
        while abs(value) >= 1_024 and unit < len(_UNITS) - 1:
            value, unit = value / 1_024, unit + 1
        shown = format_decimal(value, format="#,##0.#" if unit else "#,##0", locale=self.locale)
        return f"{shown} {_UNITS[unit]}"

    def seconds(self, value: float) -> str:
        """Write a length of time: `0.4 s`, `3 min`."""
        if value < 120:
            shown = format_decimal(value, format="#,##0.#" if value < 10 else "#,##0", locale=self.locale)
            return f"{shown} {self.text('s')}"
        unit, size = next((unit, size) for unit, size in _LONG if value >= 2 * size)
        return format_unit(int(value / size), f"duration-{unit}", length="short", locale=self.locale)

    def moment(self, value: datetime) -> str:
        """Write a moment in UTC; the browser shows it in the zone of its person."""
        return format_datetime(value, "d MMM y, HH:mm", tzinfo=UTC, locale=self.locale)

    def age(self, value: datetime, now: datetime | None = None) -> str:
        """Write how long ago something was."""
        return self.seconds(max(0.0, ((now or datetime.now(UTC)) - value).total_seconds()))

    def cell(self, value: content.Cell) -> Markup:
        """Write a value of a table as HTML. What is not ours is escaped."""
        match value:
            case None:
                return NOTHING
            case content.Since(value=moment):
                return _time(moment, self.age(moment), self.moment(moment), kind="since")
            case datetime():
                return _time(value, self.moment(value), self.moment(value), kind="moment")
            case content.Code(value=name):
                return Markup('<span class="code" dir="auto">{}</span>').format(name)
            case content.State(value=word, tone=tone):
                return Markup('<span class="state {}">{}</span>').format(tone, self.sentence(self.text(word)))
        return escape(self._plain(value))

    def _plain(self, value: Any) -> str:
        writers: Mapping[type, Callable[[Any], str]] = {
            content.Sentence: lambda each: self.sentence(each.value),
            content.Size: lambda each: self.size(each.value),
            content.Seconds: lambda each: self.seconds(each.value),
            content.Share: lambda each: format_percent(each.value, format="#,##0.#%", locale=self.locale),
            content.About: lambda each: f"≈ {self.number(int(each.value))}",
            int: self.number,
            float: self.number,
        }
        return writers.get(type(value), self.text)(value)

    def number_columns(self, table: content.PanelTable) -> set[int]:
        """Return the columns of a table whose values stand at the right, one below the other."""
        return {index for row in table.rows for index, cell in enumerate(row.cells) if type(cell) in NUMBERS}

    def plot(self, plot: content.Plot) -> str:
        """Write a plot as JSON, for the script that draws it."""
        facts = asdict(plot)
        lines = [{"name": line.name, "values": list(line.values)} for line in plot.lines]
        return json.dumps({**facts, "lines": lines, "title": self.text(plot.title)})

    def since(self, moment: datetime) -> content.Since:
        """Return a moment as the value that is shown as its age."""
        return content.Since(moment)

    def last(self, line: content.PlotLine, unit: str) -> str:
        """Write the last value of a line of a plot; empty where it has none."""
        value = next((each for each in reversed(line.values) if each is not None), None)
        if value is None:
            return ""
        writers = {"bytes": self.size, "seconds": self.seconds}
        return writers.get(unit, self.number)(value)


def _pattern(message: str) -> re.Pattern[str]:
    pieces = _PLACE.split(message)
    return re.compile(
        "".join(
            re.escape(piece) if index % 2 == 0 else f"(?P<{piece}>.+?)" for index, piece in enumerate(pieces)
        )
    )


def _time(moment: datetime, shown: str, hint: str, *, kind: str) -> Markup:
    return Markup('<time datetime="{}" data-time="{}" title="{} UTC">{}</time>').format(
        moment.astimezone(UTC).isoformat(), kind, hint, shown
    )
