"""One signed POST to a URL that a stranger has given: to a public address, in time, following nothing.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com), version 1.
"""

import asyncio
import hmac
import ipaddress
import re
import ssl
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_bytes
from socket import SOCK_STREAM, gaierror
from urllib.parse import SplitResult, urlsplit

from app.kit.errors import AppError

SECRET_PREFIX = "whsec_"
_SECRET_BYTES = 32
_LONGEST_HEADER_BYTES = 16 * 1024
_MOST_INTERIM = 5
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")
_URL = re.compile(r"[\x21-\x7e]{1,2000}")
_HOST = re.compile(r"[A-Za-z0-9.:-]{1,253}")
_NUMBER = re.compile(r"(.*\.)?(0[xX][0-9A-Fa-f]*|[0-9]+)\.?")
_NOT_PUBLIC = "its host has no address, or one that is not public"
"""One answer to both: or else names of this network could be guessed."""

# Public as Python has it, and yet where a provider's machines are asked for secrets: Azure and Oracle.
_METADATA = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24")))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host."""


class WebhookUrlRefused(AppError):
    """No webhook is sent to such a URL."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        super().__init__(f"url: {fault}")


class SendingFailed(AppError):
    """It did not come through, or was not answered by 2xx; `status` is what was answered, if anything."""

    def __init__(self, why: str, *, status: int | None = None) -> None:
        self.why = why
        self.status = status
        super().__init__(why)


def new_secret() -> str:
    """Make a secret that signs what is sent to one endpoint."""
    return SECRET_PREFIX + b64encode(token_bytes(_SECRET_BYTES)).decode()


def signature_headers(secret: str, *, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers by which a receiver knows the sender, and a message that comes again.

    Parameters:
        secret: from `new_secret`.
        event_id: the same in each sending of an event.
        timestamp: of this sending, in seconds; the receiver refuses an old one.
        body: exactly what is sent.
    """
    key = b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{event_id}.{timestamp}.".encode() + body
    digest = b64encode(hmac.digest(key, signed, "sha256")).decode()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{digest}",
    }


def check_url(url: str, *, allows_local: bool = False) -> SplitResult:
    """Return the parts of a URL to which webhooks may be sent, as far as its text says.

    Raises:
        WebhookUrlRefused: it is not https, or holds what it must not.
    """
    if not _URL.fullmatch(url):
        raise WebhookUrlRefused("2,000 characters of ASCII at most, and none that cannot be seen")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise WebhookUrlRefused("this is no URL") from None
    if parts.scheme != "https" and not (allows_local and parts.scheme == "http"):
        raise WebhookUrlRefused("it begins with https://")
    if "@" in parts.netloc or parts.fragment:
        raise WebhookUrlRefused("it has no user, password or fragment: the signature proves who sends")
    if not _HOST.fullmatch(host) or port == 0:
        raise WebhookUrlRefused("it names a host, in ASCII, and perhaps a port")
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        if _NUMBER.fullmatch(host):
            # Some resolvers read it as an address, as 127.1 and 2130706433.
            raise WebhookUrlRefused(f"{host} is no host, and no address as it is written") from None
        return parts
    if not is_reachable(literal, allows_local=allows_local):
        raise WebhookUrlRefused(f"{host} is no public address")
    return parts


def is_reachable(address: Address, *, allows_local: bool = False) -> bool:
    """Return whether webhooks may be sent to an address: a public one, whatever it is written as. Pure.

    Parameters:
        address: from the resolver.
        allows_local: whether the machine itself is allowed too.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inside = [each for each in inner if each is not None]
        if inside:
            return all(is_reachable(each, allows_local=allows_local) for each in inside)
    if allows_local and address.is_loopback:
        return True
    if address.is_multicast or address.is_reserved or getattr(address, "is_site_local", False):
        return False
    return address.is_global and not any(address in network for network in _METADATA)


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host, as the system's resolver says now."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, kw_only=True)
class WebhookSender:
    """Sends by HTTP/1.1, on a connection of its own for each POST.

    Parameters:
        allows_local: whether http, and the machine itself, are allowed: for trying out alone.
        seconds: how long all of it may take, from the first question to the resolver.
        resolver: returns the addresses of a host.
        tls: which certificates are believed.
    """

    allows_local: bool = False
    seconds: float = 10.0
    resolver: Resolver = resolve
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> int:
        """Send a body, and return the status by which it was taken.

        The host is resolved once, each address is judged, and the connection goes to one of these addresses
        and to no name: so what is judged is what is connected to, whatever the name means a moment later.
        Of the answer only the status is read.

        Raises:
            SendingFailed: it was not taken, or it is unknown whether it was.
        """
        try:
            async with asyncio.timeout(self.seconds):
                status = await self._exchange(url, headers, body)
        except TimeoutError:
            raise SendingFailed(f"it was not answered within {self.seconds:g} s") from None
        except WebhookUrlRefused as error:
            raise SendingFailed(str(error)) from None
        except gaierror:
            raise SendingFailed(_NOT_PUBLIC) from None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, UnicodeError) as error:
            raise SendingFailed(_fault_of(error)) from None
        if 200 <= status < 300:
            return status
        note = "; redirects are not followed" if 300 <= status < 400 else ""
        raise SendingFailed(f"it was answered by {status}{note}", status=status)

    async def _exchange(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        parts = check_url(url, allows_local=self.allows_local)
        host, is_tls = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        reader, writer = await self._connect(host, port, is_tls=is_tls)
        try:
            writer.write(_request(parts, headers, body) + body)
            await writer.drain()
            return await _read_status(reader)
        finally:
            # Whatever else it says is not waited for, however much it is.
            writer.transport.abort()

    async def _connect(
        self, host: str, port: int, *, is_tls: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        addresses = [ipaddress.ip_address(each) for each in await self.resolver(host, port)]
        # One that is not public among others is an attempt, and no mistake.
        if not addresses or not all(is_reachable(each, allows_local=self.allows_local) for each in addresses):
            raise SendingFailed(_NOT_PUBLIC)
        return await asyncio.open_connection(
            str(addresses[0]),
            port,
            ssl=self.tls if is_tls else None,
            server_hostname=host if is_tls else None,
            limit=_LONGEST_HEADER_BYTES,
        )


def _request(parts: SplitResult, headers: Mapping[str, str], body: bytes) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = {
        "host": parts.netloc,
        "content-type": "application/json",
        "content-length": str(len(body)),
        "user-agent": "mes-storage-webhooks/1",
        "connection": "close",
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {target} HTTP/1.1\r\n{head}\r\n".encode("ascii")


async def _read_status(reader: asyncio.StreamReader) -> int:
    for _ in range(_MOST_INTERIM):
        header = await reader.readuntil(b"\r\n\r\n")
        found = _STATUS.match(header)
        if found is None:
            break
        status = int(found[1])
        if status >= 200:  # below are interim answers, such as 100 Continue
            return status
    raise SendingFailed("its answer is no HTTP/1.1")


def _fault_of(error: Exception) -> str:
    match error:
        case ssl.SSLError():
            return f"TLS failed: {error.reason or 'its certificate is not good'}"
        case asyncio.LimitOverrunError():
            return "the header of its answer is too long"
        case asyncio.IncompleteReadError():
            return "it ended the connection without an answer"
        case _:
            return "it cannot be reached"
