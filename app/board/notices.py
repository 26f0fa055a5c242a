"""What customers are written of their orders: once for each event, through one port; nothing if none is set.

A notice is a row, written in the transaction that takes a line of a history in; that line comes in once. It
is sent behind that transaction, and deleted when it was taken. A process that ends in between sends it again:
its id is the same.
"""

import asyncio
import smtplib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.message import EmailMessage
from functools import partial
from typing import Any, NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import httpx
import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.access.credentials import TokenKeys, TokenUse
from app.board import repository
from app.board.pages.rendering import PageReader
from app.board.pages.rendering import marked as _
from app.board.repository import ListedOrder
from app.kit.errors import AppError
from app.kit.tasks import sleep_unless
from app.models.board import BoardNotice
from app.orders import UnknownOrder
from app.settings import Settings
from readreplica.cluster import Cluster
from readreplica.errors import Unavailable, one_line
from readreplica.freshness import PRIMARY
from readreplica.sessions import WriteSession

POLL_SECONDS = 1.0
SEND_SECONDS = 10.0
FIRST_RETRY = timedelta(seconds=30)
GOOD_FOR = timedelta(days=2)
"""What could not be sent for so long is not sent any more: it would only puzzle its reader."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("notices")

_TEXTS: Mapping[str, tuple[str, str]] = {
    "priced": (_("Order %(number)s: the price is there"), _("The price of your order is %(price)s.")),
    "repriced": (_("Order %(number)s: a new price"), _("The price of your order is %(price)s now.")),
    "rejected": (_("Order %(number)s cannot be made"), _("Your order cannot be made as it is.")),
    "file_requested": (
        _("Order %(number)s: please send another file"),
        _("We ask you for another file; what has to be different is on the page of your order."),
    ),
    "shipped": (_("Order %(number)s is on its way"), _("Your piece is on its way to you.")),
    "cancelled": (_("Order %(number)s was cancelled"), _("Your order was cancelled.")),
}
_LINK_TEXT = _("Look at it here: %(link)s")


class NoticeNotSent(AppError):
    """A notice was not taken; it is worth trying again."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"the notice was not sent: {cause}")


@dataclass(frozen=True, kw_only=True)
class Notice:
    """What is sent to a customer; one that comes again has the same `notice_id`."""

    notice_id: str
    kind: str
    order_id: int
    email: str
    name: str
    subject: str
    text: str


class NoticePort(Protocol):
    """Where notices leave the system."""

    async def send(self, notice: Notice) -> None:
        """Send a notice.

        Raises:
            NoticeNotSent: it was not taken.
        """


@dataclass(frozen=True)
class Hook:
    """Sends notices to a program of ours, as JSON."""

    url: str
    client: httpx.AsyncClient

    async def send(self, notice: Notice) -> None:
        """POST it; any answer of 2xx has taken it."""
        content = {**vars(notice), "order_id": str(notice.order_id)}
        try:
            answer = await self.client.post(
                self.url, json=content, headers={"Idempotency-Key": notice.notice_id}
            )
        except httpx.HTTPError as error:
            raise NoticeNotSent(type(error).__name__) from error
        if not answer.is_success:
            raise NoticeNotSent(f"HTTP {answer.status_code}")


@dataclass(frozen=True)
class Mail:
    """Sends notices as letters, by SMTP."""

    server: SplitResult
    sender: str

    async def send(self, notice: Notice) -> None:
        """Hand it to the mail server."""
        try:
            await asyncio.to_thread(self._send, self.letter_of(notice))
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise NoticeNotSent(type(error).__name__) from error

    def letter_of(self, notice: Notice) -> EmailMessage:
        """Return a notice as a letter; `email` refuses what would begin another header."""
        letter = EmailMessage()
        letter["Subject"], letter["From"], letter["To"] = notice.subject, self.sender, notice.email
        letter["Message-ID"] = f"<{notice.notice_id}@{self.sender.rpartition('@')[2]}>"
        letter["Auto-Submitted"] = "auto-generated"
        letter.set_content(notice.text)
        return letter

    def _send(self, letter: EmailMessage) -> None:
        is_tls = self.server.scheme == "smtps"
        host, port = self.server.hostname or "localhost", self.server.port or (465 if is_tls else 25)
        connect = smtplib.SMTP_SSL if is_tls else smtplib.SMTP
        with connect(host, port, timeout=SEND_SECONDS) as server:
            if self.server.username:
                server.login(unquote(self.server.username), unquote(self.server.password or ""))
            server.send_message(letter)


@asynccontextmanager
async def open_port(settings: Settings) -> AsyncIterator[NoticePort | None]:
    """Open what the settings name; None where nothing is sent."""
    url = settings.notice_url.get_secret_value()
    server = urlsplit(url)
    if not url:
        yield None
    elif server.scheme.startswith("smtp"):
        yield Mail(server, settings.notice_from)
    else:
        async with httpx.AsyncClient(timeout=SEND_SECONDS) as client:
            yield Hook(url, client)


class DueNotice(NamedTuple):
    """A notice that is to be sent now."""

    order_id: int
    source: str
    event_no: int
    kind: str
    attempts: int

    @property
    def notice_id(self) -> str:
        """What it is known by."""
        return f"{self.order_id}-{self.source}-{self.event_no}"


async def lease(session: WriteSession) -> DueNotice | None:
    """Take the next notice that is due: no other process has it until it is tried again."""
    row = BoardNotice
    await session.execute(delete(row).where(row.at < func.now() - GOOD_FOR))
    due = select(row.order_id, row.source, row.event_no).where(row.next_at <= func.now())
    found = (
        await session.execute(due.order_by(row.next_at).limit(1).with_for_update(skip_locked=True))
    ).one_or_none()
    if found is None:
        return None
    again = update(row).where(*_is(*found)).returning(row.kind, row.attempts)
    rests = func.now() + FIRST_RETRY * func.power(2, row.attempts)
    kept = await session.execute(again.values(attempts=row.attempts + 1, next_at=rests))
    return DueNotice(*found, *kept.one())


def _is(order_id: int, source: str, event_no: int) -> tuple[Any, ...]:
    row = BoardNotice
    return row.order_id == order_id, row.source == source, row.event_no == event_no


async def _forget(due: DueNotice, session: WriteSession) -> None:
    await session.execute(delete(BoardNotice).where(*_is(due.order_id, due.source, due.event_no)))


@dataclass(frozen=True, kw_only=True)
class NoticeSender:
    """Sends what is due, again and again.

    Parameters:
        orders: the board's database.
        port: where it is sent.
        tokens: what signs the link of an order; None leaves links out.
        link_base: where customers find the board; empty leaves links out.
        language: in which they are written.
    """

    orders: Cluster
    port: NoticePort
    tokens: TokenKeys | None
    link_base: str
    language: str

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set; what fails once is tried again later, and ever less often."""
        while not stop.is_set():
            try:
                is_idle = not await self.send_next()
            except (SQLAlchemyError, Unavailable, OSError) as error:
                log.warning("notices_not_read", error=one_line(error))
                is_idle = True
            if is_idle:
                await sleep_unless(stop, POLL_SECONDS)

    async def send_next(self) -> bool:
        """Send one notice; False if none is due."""
        due = (await self.orders.transact(lease)).value
        if due is None:
            return False
        try:
            async with self.orders.read(freshness=PRIMARY) as session:
                order = await repository.get_order(session, due.order_id)
            if order.customer_email is not None:
                await self.port.send(self.notice_of(due, order))
        except UnknownOrder:
            # Of a board that was emptied meanwhile.
            pass
        except NoticeNotSent as error:
            log.warning("notice_not_sent", order_id=due.order_id, error=str(error))
            return True
        await self.orders.transact(partial(_forget, due))
        return True

    def notice_of(self, due: DueNotice, order: ListedOrder) -> Notice:
        """Return what a customer is written: of the order as it is now."""
        reader = PageReader(language=self.language)
        subject, text = _TEXTS[due.kind]
        facts = {"number": str(order.order_id), "price": reader.money(order.price)}
        lines = [reader.gettext(text) % facts]
        if self.tokens is not None and self.link_base:
            token = self.tokens.sign(TokenUse.LINK, {"sub": str(order.order_id)})
            link = f"{self.link_base.rstrip('/')}/my/{order.order_id}#{token}"
            lines.append(reader.gettext(_LINK_TEXT, link=link))
        return Notice(
            notice_id=due.notice_id,
            kind=due.kind,
            order_id=order.order_id,
            email=order.customer_email or "",
            name=order.customer_name or "",
            subject=reader.gettext(subject) % facts,
            text="\n\n".join(lines) + "\n",
        )
