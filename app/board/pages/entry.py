"""What is open to all: files, the way in and out, the viewer's choices, and what errors look like."""

import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.access.credentials import LONGEST_PASSWORD
from app.access.endpoints import AFTER_LOGIN, sign_in
from app.access.enforce import COOKIE, Access, refuse_cross_site
from app.access.errors import LoginFailed
from app.board.pages.rendering import (
    HEADERS,
    LANGUAGE_COOKIE,
    LANGUAGES,
    THEME_COOKIE,
    THEMES,
    PageReader,
    is_fragment,
    page,
    render,
    static_file,
)
from app.board.pages.rendering import marked as _
from app.kit.problem import problem_type
from app.kit.strict import StrictRoute

files_router = APIRouter(include_in_schema=False)
router = APIRouter(include_in_schema=False, route_class=StrictRoute)

_YEAR_SECONDS = 365 * 24 * 3600
_LONGEST_BACK = 500


PROBLEM_TEXTS: Mapping[str, str] = {
    "Taken by another": _("%(operator)s has taken this order already."),
    "Not the holder": _("This order is not in your hands."),
    "Illegal transition": _("The order has gone on: it is “%(current)s” by now."),
    "Cancellation pending": _("A cancellation was asked for; the workshop decides first."),
    "Price renewal pending": _("A new price was asked for; it comes in a moment."),
    "Not a price": _("A price is a number, such as 250.50."),
    "Price expired": _("The price is not good any more: ask for a new one."),
    "Unknown order": _("There is no such order."),
    "Not allowed": _("Your role does not allow this."),
    "Not authenticated": _("Sign in first."),
    "Cross site request": _("This was asked for by a page that is not ours."),
    "Login failed": _("Name and password do not belong together: check both."),
    "Too many attempts": _("Too many wrong passwords came from your address: wait a minute."),
    "Model too large": _("The file is too large."),
    "Unsupported model type": _("This is no 3D model that can be read: send STL, 3MF or OBJ."),
    "Content mismatch": _("The file is not what its name says: export it again."),
    "Commit in doubt": _("It is not known yet whether this was done. Asking again does it once only."),
    "Rate limited": _("That was too often: wait a moment."),
    "Not found": _("There is no such page."),
    "Invalid request": _("Something in the form does not fit: check what you have written."),
}
"""What a problem says to a reader, by its title; of its facts the texts use some."""

_UNAVAILABLE = _("Something that this needs cannot be reached. Nothing is lost; try again in a moment.")
_FAULT = _("This is a fault of ours, and has been noted. Nothing was changed.")
_UNFIT = _("This cannot be done.")


def said_of(viewer: PageReader, problem: Mapping[str, Any]) -> str:
    """Return what a problem says, in the reader's language."""
    known = PROBLEM_TEXTS.get(str(problem.get("title")))
    if known is None:
        status = int(problem.get("status") or 500)
        return viewer.gettext(
            _UNAVAILABLE if status in {502, 503, 504} else _FAULT if status >= 500 else _UNFIT
        )
    facts = {name: fact for name, fact in problem.items() if isinstance(fact, str)}
    if "current" in facts:
        facts["current"] = viewer.status(facts["current"])  # type: ignore[arg-type]
    try:
        return viewer.gettext(known) % facts
    except KeyError:
        return viewer.gettext(_UNFIT)


def show_error(request: Request, problem: Mapping[str, Any], headers: Mapping[str, str]) -> Response | None:
    """Answer a browser's request that failed by a page, and htmx's by a sentence; None for programs."""
    if request.url.path.startswith("/v1/") or not _wants_page(request):
        return None
    viewer, status = PageReader.of(request), int(problem["status"])
    kept = {name: value for name, value in headers.items() if name.lower() != "www-authenticate"}
    if is_fragment(request):
        said = quote(said_of(viewer, problem))
        return Response(status_code=status, headers={**HEADERS, **kept, "X-Said": said})
    if problem["type"] == problem_type("Not authenticated"):
        return (
            _ask_for_link(request, viewer)
            if _OF_CUSTOMER.match(request.url.path)
            else _ask_to_sign_in(request, viewer)
        )
    titles = {403: _("This is not yours to see"), 404: _("Not found"), 503: _("Not now")}
    text = render(
        "error.html",
        viewer,
        path=request.url.path,
        query="",
        status=status,
        title=viewer.gettext(titles.get(status, _("Something went wrong"))),
        text=said_of(viewer, problem),
        can_retry=status in {429, 503} and request.method == "GET",
    )
    return HTMLResponse(text, status, headers={**HEADERS, **kept})


_OF_CUSTOMER = re.compile(r"(/my/[0-9]{1,19})(/|$)")


def _ask_for_link(request: Request, viewer: PageReader) -> Response:
    """Answer with the page that takes the token behind the # of a link, which no request has."""
    found = _OF_CUSTOMER.match(request.url.path)
    assert found is not None
    text = render("my_open.html", viewer, path=found[1], query="", home=found[1])
    return HTMLResponse(text, headers=dict(HEADERS))


def _wants_page(request: Request) -> bool:
    return is_fragment(request) or "text/html" in request.headers.get("accept", "")


def _ask_to_sign_in(request: Request, viewer: PageReader) -> Response:
    is_link = request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET"
    if is_link:
        # The cookie is not sent with a click on another site. The page that it leads to asks once more.
        again = '<!doctype html><meta http-equiv="refresh" content="0"><title>…</title>'
        return HTMLResponse(again, headers=dict(HEADERS))
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return _sign_in_page(request, viewer, back=back if request.method == "GET" else "/", fault=None)


def _sign_in_page(request: Request, viewer: PageReader, *, back: str, fault: str | None) -> HTMLResponse:
    provider = _provider_link(request, back)
    context = {"path": "/login", "query": "", "fault": fault, "back": back, "provider": provider}
    return HTMLResponse(render("login.html", viewer, **context), 401, headers=dict(HEADERS))


def _provider_link(request: Request, back: str) -> str | None:
    """Return what begins a login by the OpenID provider that leads back; None where none is set."""
    if request.app.state.access.oidc is None:
        return None
    to = back if re.fullmatch(AFTER_LOGIN, back) else "/"
    return f"/v1/oidc/login?to={quote(to, safe='')}"


def own_path(back: str) -> str:
    """Return a path of these pages; the first page for anything else."""
    is_own = back.startswith("/") and not back.startswith("//") and "\\" not in back and back.isprintable()
    return back if is_own and len(back) <= _LONGEST_BACK else "/"


@files_router.get("/static/{digest}/{name}")
async def file(request: Request, digest: str, name: str) -> Response:
    """Answer with a file; its address names its content."""
    found = static_file(digest, name)
    if found is None:
        raise HTTPException(404)
    return found.response(takes_gzip="gzip" in request.headers.get("accept-encoding", ""))


@files_router.get("/login")
async def login_page(request: Request, back: str = "/") -> HTMLResponse:
    """Show where to sign in."""
    back = own_path(back)
    return page(request, "login.html", fault=None, back=back, provider=_provider_link(request, back))


@router.post("/login")
def login(
    request: Request,
    name: Annotated[str, Form(min_length=1, max_length=100)],
    password: Annotated[str, Form(min_length=1, max_length=LONGEST_PASSWORD)],
    back: Annotated[str, Form(max_length=_LONGEST_BACK)] = "/",
) -> Response:
    """Sign in, and go back to where it was asked for."""
    refuse_cross_site(request)
    answer = RedirectResponse(own_path(back), 303, headers=dict(HEADERS))
    try:
        sign_in(request, answer, name=name, password=password)
    except LoginFailed:
        viewer = PageReader.of(request)
        fault = viewer.gettext(PROBLEM_TEXTS["Login failed"])
        return _sign_in_page(request, viewer, back=own_path(back), fault=fault)
    return answer


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End the session, and forget who it was."""
    access: Access = request.app.state.access
    await access.end_session(request)
    answer = RedirectResponse("/login", 303, headers={**HEADERS, "Clear-Site-Data": '"cache"'})
    answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict")
    return answer


@router.post("/preferences")
async def choose(
    back: Annotated[str, Form(max_length=_LONGEST_BACK)] = "/",
    lang: Annotated[str | None, Form(max_length=10)] = None,
    theme: Annotated[str | None, Form(max_length=10)] = None,
) -> Response:
    """Keep the viewer's language or theme in a cookie, and go back."""
    answer = RedirectResponse(own_path(back), 303, headers=dict(HEADERS))
    for cookie, chosen, known in ((LANGUAGE_COOKIE, lang, LANGUAGES), (THEME_COOKIE, theme, THEMES)):
        if chosen is not None and chosen in known:
            answer.set_cookie(
                cookie, chosen, max_age=_YEAR_SECONDS, secure=True, httponly=True, samesite="lax"
            )
    return answer
