"""The site: a page that asks for its panels by one long request at a time, a login, and buttons.

Every answer has a strict Content-Security-Policy; nothing is loaded from elsewhere, and no script or style
stands in a page. A change needs a session, a right, its form's token, and a request from the same origin.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ops.options import Options
from ops.output import note
from ops.pages.content import Panel, worst
from ops.pages.language import LANGUAGES, NAMES, Language, choose_language
from ops.pages.reading import PanelBoard, PanelState
from ops.pages.sessions import LoginRefused, PagesAccess, SessionStore, Viewer, form_token, is_form_token

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

WAIT_SECONDS = 10.0
"""How long a request for what has changed is held open: less than proxies have patience for."""

BODY_BYTES = 16_384
THEMES = ("auto", "light", "dark")
YEAR_SECONDS = 31_536_000

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Refusal(Exception):
    """A request is not done; the heading of its page says why."""

    def __init__(self, status: int, heading: str) -> None:
        self.status = status
        self.heading = heading
        super().__init__(heading)


NO_PAGE = "There is no such page"
ELSEWHERE = "This form was sent by another site, or by a session that has ended"


@dataclass(frozen=True)
class Guard:
    """Adds the headers of every answer, and refuses hosts that are not ours.

    Parameters:
        app: answers.
        hosts: the names under which it is reached, without a port.
    """

    app: ASGIApp
    hosts: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                wanted = ((name.encode(), value.encode()) for name, value in HEADERS.items())
                message["headers"] = [*message["headers"], *(each for each in wanted if each[0] not in given)]
            await send(message)

        given = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        host = urlsplit(f"//{given}").hostname if "@" not in given else None
        if host not in self.hosts:
            refuse = PlainTextResponse("this name is not one of ours: [pages] names\n", 421)
            await refuse(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)


class Site:
    """What answers the requests.

    Parameters:
        options: of the run of mesctl.
        board: the panels.
        sessions: the links and sessions.
        access: what the project decides; None where it decides nothing.
        title: the name of the platform.
        hosts: the names under which it is reached.
        port: of loopback, which tells apart the cookies of two platforms on one machine.
        catalogues: folders with translations of the project's panels.
    """

    def __init__(
        self,
        options: Options,
        board: PanelBoard,
        sessions: SessionStore,
        *,
        access: PagesAccess | None,
        title: str,
        hosts: Iterable[str],
        port: int,
        catalogues: Iterable[Path] = (),
    ) -> None:
        self._options = options
        self._board = board
        self._sessions = sessions
        self._access = access
        self._title = title
        self._hosts = frozenset(hosts)
        self._cookie = f"mesctl-pages-{port}"
        self._languages = {code: Language(code, catalogues) for code in LANGUAGES}
        self._rendered: dict[tuple[str, str, bool], tuple[int, str]] = {}
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {"asset": self._asset, "worst": worst}

    def app(self) -> ASGIApp:
        """Return the application."""
        routes = [
            Route("/", self._page),
            Route("/open", self._open),
            Route("/session", self._log_in, methods=["POST"]),
            Route("/session/end", self._log_out, methods=["POST"]),
            Route("/settings", self._set, methods=["POST"]),
            Route("/panels", self._panels),
            Route("/actions/{panel}/{action}", self._act, methods=["POST"]),
            Route("/static/{name}", self._static),
            Route("/livez", self._livez),
        ]
        handlers: Mapping[Any, Any] = {404: self._not_found, 405: self._not_found, Refusal: self._refused}
        return Guard(Starlette(routes=routes, exception_handlers=handlers), self._hosts)

    @cached_property
    def _assets(self) -> Mapping[str, tuple[bytes, str]]:
        """The static files, and the digests by which their addresses change with them."""
        files = [file for file in STATIC.iterdir() if file.suffix in KINDS]
        return {file.name: (data := file.read_bytes(), _digest(data)) for file in files}

    def _asset(self, name: str) -> str:
        return f"/static/{name}?{self._assets[name][1]}"

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._assets:
            raise Refusal(404, NO_PAGE)
        data, digest = self._assets[name]
        kept = f"max-age={YEAR_SECONDS}, immutable" if request.url.query == digest else "no-cache"
        headers = {"cache-control": kept, "etag": f'"{digest}"'}
        return Response(data, media_type=KINDS[Path(name).suffix], headers=headers)

    async def _livez(self, _request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def _not_found(self, request: Request, _error: Any) -> Response:
        return self._html(request, "message.html", status=404, heading=NO_PAGE, lines=())

    async def _page(self, request: Request) -> Response:
        viewer = await self._viewer(request)
        if viewer is None:
            return RedirectResponse("/open", 303)
        self._board.start_due()
        session = request.cookies.get(self._cookie, "")
        panels = {
            state.panel.name: self._render(state, request, viewer) for state in self._board.states.values()
        }
        groups: dict[str, list[PanelState]] = {}
        for state in self._board.states.values():
            groups.setdefault(state.panel.group, []).append(state)
        return self._html(
            request,
            "page.html",
            viewer=viewer,
            groups=groups,
            panels=panels,
            form_token=form_token(session),
            is_overview=True,
        )

    async def _panels(self, request: Request) -> Response:
        """Answer with what has changed of what a page shows; wait until something has."""
        viewer = await self._viewer(request)
        if viewer is None:
            return JSONResponse({"login": "/open"}, 401)
        seen: dict[str, int] = {}
        for part in request.query_params.get("seen", "").split(","):
            name, _, version = part.rpartition(":")
            if version.isdecimal():
                seen[name] = int(version[:18])
        changed = await self._board.wait(seen, seconds=WAIT_SECONDS)
        return JSONResponse(
            {
                "at": datetime.now(UTC).isoformat(),
                "panels": {
                    state.panel.name: {
                        "version": state.version,
                        "tone": _tone_of(state),
                        "html": self._render(state, request, viewer),
                    }
                    for state in changed
                },
            }
        )

    def _render(self, state: PanelState, request: Request, viewer: Viewer) -> str:
        """Return the HTML of a panel's content; it is the same for all who read the same language."""
        language = self._language(request)
        key = (state.panel.name, language.code, viewer.may_act)
        version, known = self._rendered.get(key, (-1, ""))
        if version != state.version:
            template = self._templates.get_template("panel.html")
            known = template.render(
                state=state, panel=state.panel, language=language, t=language.text, may_act=viewer.may_act
            )
            self._rendered[key] = (state.version, known)
        return known

    async def _open(self, request: Request) -> Response:
        return self._html(request, "open.html", has_login=self._access is not None, refused=None)

    async def _log_in(self, request: Request) -> Response:
        """Open a session by a link's token, or by a name and a password."""
        if not _is_same_origin(request):
            raise Refusal(403, ELSEWHERE)
        form = await _form(request)
        if token := form.get("token", "").strip():
            session = await asyncio.to_thread(self._sessions.redeem, token)
            if session is None:
                return self._open_again(request, "This link was used already, or is older than a day")
            note(f"{_now()} pages: a session was opened by a link")
        else:
            try:
                viewer = await asyncio.to_thread(self._known, request, form)
            except LoginRefused as error:
                return self._open_again(request, str(error))
            if viewer is None:
                return self._open_again(request, "This name and this password open nothing here")
            session = await asyncio.to_thread(self._sessions.open, viewer)
            note(f"{_now()} pages: {viewer.name!r} has logged in")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self._cookie, session, httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return answer

    def _known(self, request: Request, form: Mapping[str, str]) -> Viewer | None:
        if self._access is None:
            return None
        address = request.client.host if request.client else None
        return self._access.login(form.get("name", ""), form.get("password", ""), address)

    def _open_again(self, request: Request, refused: str) -> Response:
        has_login = self._access is not None
        return self._html(request, "open.html", status=401, has_login=has_login, refused=refused)

    async def _log_out(self, request: Request) -> Response:
        session = request.cookies.get(self._cookie, "")
        form = await _form(request)
        if not _is_same_origin(request) or not is_form_token(session, form.get("form_token", "")):
            raise Refusal(403, ELSEWHERE)
        await asyncio.to_thread(self._sessions.close, session)
        answer = RedirectResponse("/open", 303)
        answer.delete_cookie(self._cookie)
        return answer

    async def _set(self, request: Request) -> Response:
        """Choose the language and the theme, for this browser."""
        if not _is_same_origin(request):
            raise Refusal(403, ELSEWHERE)
        form = await _form(request)
        back = RedirectResponse("/" if await self._viewer(request) else "/open", 303)
        for name, known in (("language", LANGUAGES), ("theme", THEMES)):
            if (chosen := form.get(name, "")) in known:
                back.set_cookie(f"pages-{name}", chosen, max_age=YEAR_SECONDS, samesite="lax")
        return back

    async def _act(self, request: Request) -> Response:
        """Do what a button says, once it is confirmed."""
        viewer = await self._viewer(request)
        if viewer is None:
            return RedirectResponse("/open", 303)
        session, form = request.cookies.get(self._cookie, ""), await _form(request)
        if not _is_same_origin(request) or not is_form_token(session, form.get("form_token", "")):
            raise Refusal(403, ELSEWHERE)
        panel = self._panel(request.path_params["panel"])
        action = panel.action(request.path_params["action"]) if panel else None
        if panel is None or action is None:
            raise Refusal(404, NO_PAGE)
        if not viewer.may_act:
            raise Refusal(403, "Your role may look, and not act")
        argument = form.get("argument", "")
        if form.get("confirmed") != "yes":
            return self._html(
                request,
                "confirm.html",
                panel=panel,
                action=action,
                argument=argument,
                form_token=form_token(session),
            )
        said, is_done = await self._done(panel, action.name, argument, viewer)
        status = 200 if is_done else 409
        if request.headers.get("accept", "").startswith("application/json"):
            language = self._language(request)
            return JSONResponse({"said": language.sentence(said), "done": is_done}, status)
        return self._html(request, "message.html", status=status, heading=action.label, lines=(said,))

    async def _done(self, panel: Panel, name: str, argument: str, viewer: Viewer) -> tuple[str, bool]:
        action = panel.action(name)
        assert action is not None
        what = f"{panel.name} {name} {argument!r} for {viewer.name!r}"
        note(f"{_now()} pages: begins {what}")
        try:
            said, is_done = await asyncio.to_thread(action.run, self._options, viewer.name, argument), True
        except Exception as error:  # it is shown to the person who has pressed the button
            from ops.problems.service import first_line  # with SQLAlchemy, as the panels

            said, is_done = first_line(error), False
        note(f"{_now()} pages: {'did' if is_done else 'failed'} {what}: {said}")
        self._board.hurry(panel.name)
        return said, is_done

    def _panel(self, name: str) -> Panel | None:
        state = self._board.states.get(name)
        return state.panel if state else None

    async def _viewer(self, request: Request) -> Viewer | None:
        """Return who sends a request; None for one without a session that is good."""
        session = request.cookies.get(self._cookie)
        if not session:
            return None
        return await asyncio.to_thread(self._viewer_of, session)

    def _viewer_of(self, session: str) -> Viewer | None:
        viewer = self._sessions.viewer(session)
        if viewer is None or not viewer.by_login:
            return viewer
        return None if self._access is None else self._access.refresh(viewer)

    def _language(self, request: Request) -> Language:
        cookie, header = request.cookies.get("pages-language"), request.headers.get("accept-language")
        return self._languages[choose_language(cookie, header)]

    async def _refused(self, request: Request, refusal: Refusal) -> Response:
        return self._html(request, "message.html", status=refusal.status, heading=refusal.heading, lines=())

    def _html(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        language, theme = self._language(request), request.cookies.get("pages-theme")
        shown = {
            "language": language,
            "languages": NAMES,
            "t": language.text,
            "theme": theme if theme in THEMES else "auto",
            "title": self._title,
            "viewer": None,
            "is_overview": False,
            **values,
        }
        return HTMLResponse(self._templates.get_template(template).render(shown), status)


def _tone_of(state: PanelState) -> str:
    if state.content is None:
        return "late" if state.is_late else "unread"
    if state.content.unreached or state.is_late:
        return "page"
    return state.content.tone


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _is_same_origin(request: Request) -> bool:
    """Return whether a page of ours has sent a request (Fetch Metadata, or else Origin)."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site == "same-origin"
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")


async def _form(request: Request) -> Mapping[str, str]:
    """Read the fields of a form; of too large a one none."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            return {}
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=20)
    return {name: values[-1] for name, values in fields.items()}
