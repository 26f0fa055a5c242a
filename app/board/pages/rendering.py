"""How a page is made: its files, its language and its viewer's zone, and the headers that guard it.

No page has a script or a style in it, and none loads anything from elsewhere: the policy forbids both.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from functools import cache, cached_property, lru_cache
from gzip import compress
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from babel.core import Locale, negotiate_locale
from babel.dates import format_date, format_datetime
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_currency, format_decimal
from babel.support import NullTranslations, Translations
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from app.kit.caller import Caller, find_caller
from app.models.status import Channel, Status

FOLDER = Path(__file__).parents[1]
LANGUAGES: Mapping[str, str] = {"en": "English", "ru": "Русский"}
THEMES = ("auto", "light", "dark")
LANGUAGE_COOKIE, ZONE_COOKIE, THEME_COOKIE = "lang", "zone", "theme"
_LOCALES: Mapping[str, str] = {"en": "en_GB", "ru": "ru_RU"}
_YEAR_SECONDS = 365 * 24 * 3600

# The one style that model-viewer writes into its own shadow tree: a browser names it when it is refused, and
# the test that opens a piece in 3D finds no complaint.
VIEWER_STYLE = "'sha256-PXtZZkJMMyc18o/DN1ZEFOJ2qEGq95IQbVaJFMOXOb0='"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{style}; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY.format(style=""),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # The page behind the back button shows how things are, and not how they were.
    "Cache-Control": "no-store",
    "Vary": "Accept-Language, Cookie, HX-Request",
}
VIEWER_HEADERS: Mapping[str, str] = {
    **HEADERS,
    "Content-Security-Policy": _POLICY.format(style=f" {VIEWER_STYLE}"),
}
"""Of a page on which a piece is seen in 3D: it needs a style more, and no worker, blob or eval."""

_KINDS: Mapping[str, str] = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_FILE_HEADERS: Mapping[str, str] = {
    "Cache-Control": f"public, max-age={_YEAR_SECONDS}, immutable",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True)
class StaticFile:
    """A file of the pages, in memory; `digest` stands in its address, so that it may be kept for ever."""

    name: str
    content: bytes

    @cached_property
    def digest(self) -> str:
        """The beginning of its SHA-256."""
        return hashlib.sha256(self.content).hexdigest()[:12]

    @property
    def address(self) -> str:
        """Where it is found."""
        return f"/static/{self.digest}/{Path(self.name).name}"

    @cached_property
    def compressed(self) -> bytes | None:
        """It as gzip; None where that is no smaller."""
        packed = compress(self.content, mtime=0)
        return packed if len(packed) < len(self.content) * 0.9 else None

    def response(self, *, takes_gzip: bool) -> Response:
        """Answer with the file."""
        headers, content = dict(_FILE_HEADERS), self.content
        if takes_gzip and self.compressed is not None:
            content, headers["Content-Encoding"] = self.compressed, "gzip"
        return Response(content, media_type=_KINDS[Path(self.name).suffix], headers=headers)


@cache
def static_files() -> Mapping[str, StaticFile]:
    """Read all files of the pages, once."""
    root = FOLDER / "static"
    found = (path for path in sorted(root.rglob("*")) if path.suffix in _KINDS)
    files = {str(path.relative_to(root)): path.read_bytes() for path in found}
    # Style sheets name fonts beside them, whose addresses have digests too.
    for name in [name for name in files if name.endswith(".css")]:
        for font in [font for font in files if font.endswith(".woff2")]:
            address = StaticFile(font, files[font]).address
            files[name] = files[name].replace(font.encode(), address.encode())
    return {name: StaticFile(name, content) for name, content in files.items()}


def static_url(name: str) -> str:
    """Return the address of a file of the pages."""
    return static_files()[name].address


@lru_cache(maxsize=100)
def static_file(digest: str, name: str) -> StaticFile | None:
    """Return the file at an address; None if there is none, or none any more."""
    found = (file for file in static_files().values() if file.address == f"/static/{digest}/{name}")
    return next(found, None)


@lru_cache(maxsize=256)
def zone_of(name: str | None) -> tzinfo:
    """Return a time zone by its name; UTC for what is none."""
    return ZoneInfo(name) if name in available_timezones() else UTC


@cache
def translations_of(language: str) -> NullTranslations:
    """Read the catalogue of a language; English stands in the code and the templates."""
    path = FOLDER / "locale" / f"{language}.po"
    if not path.exists():
        return NullTranslations()
    with path.open("rb") as file:
        catalogue = read_po(file, locale=language)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return Translations(compiled)


@dataclass(frozen=True)
class PageReader:
    """Who looks: in which language, zone and theme. Its methods write values as he reads them."""

    language: str = "en"
    zone_name: str | None = None
    theme: str = "auto"
    caller: Caller | None = None

    @classmethod
    def of(cls, request: Request, caller: Caller | None = None) -> "PageReader":
        """Read who looks from a request's cookies; the language also from what his browser asks for."""
        language = request.cookies.get(LANGUAGE_COOKIE, "")
        if language not in LANGUAGES:
            language = _negotiated(request.headers.get("accept-language", ""))
        theme = request.cookies.get(THEME_COOKIE, "auto")
        zone = request.cookies.get(ZONE_COOKIE, "").replace("%2F", "/")
        return cls(
            language=language,
            zone_name=zone if zone in available_timezones() else None,
            theme=theme if theme in THEMES else "auto",
            caller=caller or find_caller(),
        )

    @property
    def locale(self) -> Locale:
        """Babel's locale."""
        return _locale(self.language)

    @property
    def zone(self) -> tzinfo:
        """His time zone; UTC as long as it is not known."""
        return zone_of(self.zone_name)

    def gettext(self, text: str, **values: Any) -> str:
        """Translate."""
        found: str = translations_of(self.language).ugettext(text)
        return found % values if values else found

    def ngettext(self, one: str, many: str, number: int) -> str:
        """Translate what depends on a number, which `%(n)d` shows."""
        found: str = translations_of(self.language).ungettext(one, many, number)
        return found % {"n": number}

    def money(self, amount: Decimal | None) -> str:
        """Write an amount in euros; a dash for one that is not known."""
        return "\N{EN DASH}" if amount is None else format_currency(amount, "EUR", locale=self.locale)

    def number(self, number: float, figures: int = 1) -> str:
        """Write a number."""
        return format_decimal(round(number, figures), locale=self.locale)

    def moment(self, at: datetime) -> str:
        """Write a day and a time, with the zone."""
        return format_datetime(at, "d MMM y, HH:mm ZZZZ", tzinfo=self.zone, locale=self.locale)

    def short(self, at: datetime) -> str:
        """Write a day and a time in short."""
        return format_datetime(at, "d MMM, HH:mm", tzinfo=self.zone, locale=self.locale)

    def clock(self, at: datetime) -> str:
        """Write a time of the day."""
        return format_datetime(at, "HH:mm", tzinfo=self.zone, locale=self.locale)

    def day(self, at: datetime) -> str:
        """Write a day."""
        return format_date(at.astimezone(self.zone), "long", locale=self.locale)

    def month(self, at: datetime) -> str:
        """Write a month."""
        return format_datetime(at, "LLLL y", tzinfo=self.zone, locale=self.locale)

    def lasted(self, seconds: float) -> str:
        """Write how long something took, in one or two units."""
        minutes = max(0, int(seconds // 60))
        units = ((minutes // 1440, _("%d d")), (minutes // 60 % 24, _("%d h")), (minutes % 60, _("%d min")))
        first = next((at for at, (count, _unit) in enumerate(units) if count), None)
        if first is None:
            return self.gettext(_("just now"))
        return " ".join(self.gettext(unit) % count for count, unit in units[first : first + 2] if count)

    def status(self, status: Status) -> str:
        """Return the name of a status."""
        return self.gettext(STATUS_NAMES[status])

    def channel(self, channel: Channel) -> str:
        """Return the name of a channel."""
        return self.gettext(CHANNEL_NAMES[channel])

    def named(self, value: str) -> str:
        """Return the name of a material or a finish; of one that is not known, its own."""
        name = CHOICE_NAMES.get(value)
        return value if name is None else self.gettext(name)


@cache
def _locale(language: str) -> Locale:
    return Locale.parse(_LOCALES[language])


def _negotiated(accepted: str) -> str:
    """Choose a language by what a browser asks for; English where it asks for none of ours."""
    ranked = []
    for part in accepted[:500].split(","):
        tag, _, quality = part.strip().partition(";q=")
        try:
            ranked.append((float(quality or 1), tag.split("-")[0].lower()))
        except ValueError:
            continue
    wanted = [tag for quality, tag in sorted(ranked, key=lambda each: -each[0]) if quality > 0]
    return negotiate_locale(wanted, list(LANGUAGES)) or "en"


def marked(text: str) -> str:
    """Mark a text for the catalogue; it is translated where it is shown."""
    return text


_ = marked

STATUS_NAMES: Mapping[Status, str] = {
    Status.INITIATED: _("Started"),
    Status.FILE_UPLOADED: _("Model uploaded"),
    Status.SUBMITTED: _("Being priced"),
    Status.PRICE_CALCULATED: _("To be confirmed"),
    Status.MANUFACTURING_APPROVED: _("Waiting for an operator"),
    Status.MANUFACTURING_STARTED: _("In work"),
    Status.MANUFACTURING_COMPLETED: _("Made"),
    Status.PACKAGING: _("Being packed"),
    Status.SHIPPED: _("Shipped"),
    Status.CLOSED: _("Closed"),
    Status.CANCELLED: _("Cancelled"),
    Status.REJECTED: _("Cannot be made"),
}
CHANNEL_NAMES: Mapping[Channel, str] = {Channel.B2C: _("Customer"), Channel.B2B: _("Partner")}
CHOICE_NAMES: Mapping[str, str] = {
    "gold_18k": _("Gold 18k"),
    "gold_14k": _("Gold 14k"),
    "silver_925": _("Silver 925"),
    "platinum_950": _("Platinum 950"),
    "brass": _("Brass"),
    "polished": _("polished"),
    "matte": _("matte"),
    "brushed": _("brushed"),
    "hammered": _("hammered"),
}
SCRIPT_TEXTS = (
    _("New orders: %s"),
    _("live"),
    _("polling"),
    _("connecting"),
    _("no connection"),
    _("No connection. Nothing was changed; try again in a moment."),
    _("Something went wrong. Nothing was changed."),
    _("Signed in again; nothing was lost."),
    _("Name and password do not belong together: check both."),
)
"""What the script says by itself."""


@cache
def environment_of(language: str) -> Environment:
    """Make the templates of a language."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
        auto_reload=False,
    )
    environment.install_gettext_translations(translations_of(language), newstyle=True)  # type: ignore[attr-defined]
    environment.globals.update(static=static_url, languages=LANGUAGES, Status=Status, Channel=Channel)
    translate = translations_of(language).ugettext
    texts = {text: translate(text) for text in SCRIPT_TEXTS}
    units = {f"%s {unit}": translate(f"%d {unit}").replace("%d", "%s") for unit in ("d", "h", "min")}
    environment.globals["script_texts"] = json.dumps(texts | units, ensure_ascii=False)
    return environment


def render(template: str, viewer: PageReader, **context: Any) -> str:
    """Render a template for who looks."""
    found = environment_of(viewer.language).get_template(template)
    return found.render(v=viewer, now=datetime.now(UTC), **context)


def page(
    request: Request,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] = HEADERS,
    **context: Any,
) -> HTMLResponse:
    """Answer with a page."""
    viewer = PageReader.of(request)
    text = render(template, viewer, path=request.url.path, query=request.url.query, **context)
    return HTMLResponse(text, status, headers=dict(headers))


def is_fragment(request: Request) -> bool:
    """Return whether htmx asks, which wants a part of a page."""
    return request.headers.get("hx-request") == "true"
