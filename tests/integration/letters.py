"""A mail server that keeps what it gets: as much of SMTP as `smtplib` speaks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage


@dataclass
class Letters:
    """The letters that came, and where the server is."""

    port: int = 0
    refuses: bool = False
    came: list[EmailMessage] = field(default_factory=list)

    def of(self, order_id: str) -> list[str]:
        """Return the subjects of an order's letters, without its number."""
        subjects = (str(letter["Subject"]) for letter in self.came)
        return [subject.replace(order_id, "N") for subject in subjects if order_id in subject]

    async def until(self, order_id: str, *subjects: str) -> None:
        """Wait until an order's letters are these."""
        async with asyncio.timeout(30):
            while self.of(order_id) != list(subjects):  # noqa: ASYNC110 (smtplib runs in a thread)
                await asyncio.sleep(0.02)

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 letters\r\n")
        while line := await reader.readline():
            word = line.split(maxsplit=1)[0].upper() if line.strip() else b""
            if word == b"DATA":
                writer.write(b"354 go on\r\n")
                content = (await reader.readuntil(b"\r\n.\r\n"))[:-3].replace(b"\r\n..", b"\r\n.")
                self.came.append(message_from_bytes(content, EmailMessage, policy=policy.default))
            is_refused = self.refuses and word == b"MAIL"
            writer.write(
                b"451 later\r\n" if is_refused else b"221 end\r\n" if word == b"QUIT" else b"250 ok\r\n"
            )
            if word == b"QUIT":
                break
        writer.close()


@asynccontextmanager
async def catching_letters() -> AsyncIterator[Letters]:
    """Run the server."""
    letters = Letters()
    server = await asyncio.start_server(letters._speak, "127.0.0.1", 0)
    letters.port = server.sockets[0].getsockname()[1]
    async with server:
        yield letters
