"""Open-loop arrivals: requests come when the schedule says, however slow the answers are."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from random import Random
from statistics import quantiles
from urllib.parse import urlsplit

from app.console.demo.shapes import good_shapes
from app.kit.caller import Role

DEADLINE_SECONDS = 1.0
"""An answer that comes later than this after the arrival is of no use to the caller any more."""
GIVEN_UP_SECONDS = 8.0
MOST_AT_ONCE = 450
"""Below the service's own limit of connections: one more is not sent, and counted as failed."""


class Kind(StrEnum):
    """What is asked for."""

    OPERATORS = "operators' list"
    HISTORY = "history"
    LISTS = "external list"
    CREATION = "creation"


MIX: Mapping[Kind, float] = {Kind.OPERATORS: 0.25, Kind.HISTORY: 0.45, Kind.LISTS: 0.2, Kind.CREATION: 0.1}


@dataclass(frozen=True)
class Arrival:
    """A request that comes at its time. `sender`: the partner, of a creation."""

    at_seconds: float
    kind: Kind
    sender: str = "atelier-nord"


def arrivals(
    rate: Callable[[float], float], *, seconds: float, seed: int, mix: Mapping[Kind, float] = MIX
) -> list[Arrival]:
    """Draw a Poisson process whose rate changes with time; the same seed, the same arrivals. Pure.

    Parameters:
        rate: arrivals per second at a time.
        seconds: for how long.
        mix: the share of each kind.
    """
    random, at, found = Random(seed), 0.0, []
    kinds, weights = list(mix), list(mix.values())
    peak = max(rate(seconds * step / 200) for step in range(201))
    while (at := at + random.expovariate(peak)) < seconds:
        # Of the arrivals at the highest rate, the share is kept that the rate is of it (thinning).
        if random.random() * peak < rate(at):
            found.append(Arrival(at, random.choices(kinds, weights)[0]))
    return found


@dataclass(frozen=True)
class Answer:
    """What came of an arrival. `status`: 0 for no answer at all. Seconds count from the arrival."""

    at_seconds: float
    kind: Kind
    sender: str
    status: int
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether it was done, and in time."""
        return 200 <= self.status < 300 and self.seconds <= DEADLINE_SECONDS

    @property
    def is_admitted(self) -> bool:
        """Whether it was worked on."""
        return 200 <= self.status < 500

    @property
    def is_refused(self) -> bool:
        """Whether it was refused to protect the service: shed, or too many."""
        return self.status in {429, 503}


@dataclass(frozen=True)
class Outcome:
    """All answers of one run."""

    seconds: float
    answers: Sequence[Answer]

    @property
    def goodput(self) -> float:
        """How many were done in time, in a second."""
        return sum(answer.is_good for answer in self.answers) / self.seconds

    def p99_seconds(self, kinds: Iterable[Kind] = tuple(Kind)) -> float:
        """Return the 99th percentile of what was admitted."""
        chosen = set(kinds)
        return percentile(
            [each.seconds for each in self.answers if each.is_admitted and each.kind in chosen], 99
        )

    def refused_share(self, kind: Kind) -> float:
        """Return the share of a kind that was refused."""
        own = [answer for answer in self.answers if answer.kind is kind]
        return sum(answer.is_refused for answer in own) / max(1, len(own))

    def as_json(self) -> dict[str, object]:
        """Return the figures."""
        return {
            "seconds": self.seconds,
            "arrivals": len(self.answers),
            "goodput_per_second": self.goodput,
            "p50_seconds": percentile([each.seconds for each in self.answers if each.is_admitted], 50),
            "p99_seconds": self.p99_seconds(),
            "statuses": dict(sorted(Counter(str(each.status) for each in self.answers).items())),
            "refused_share": {kind.value: self.refused_share(kind) for kind in Kind},
        }


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile; 0 of no values."""
    if len(values) < 2:
        return sum(values)
    return quantiles(values, n=100, method="inclusive")[percent - 1]


@dataclass
class Caller:
    """Sends requests to one service over connections of its own.

    With a client library, the client takes as much of the processor as the service that it measures. This one
    knows what the service answers with: a status and a length.

    Parameters:
        url: the service's.
        order_ids: orders that may be asked for.
        keys: the API key of each role that asks: an operator, a service, and an admin for all else.
    """

    url: str
    order_ids: Sequence[str]
    keys: Mapping[Role, str]
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(time.time_ns()))
    _busy: int = 0

    def __post_init__(self) -> None:
        """Choose the model that is ordered: always the same one, so that its price is known."""
        self._model = next(shape for shape in good_shapes(seed=1) if shape.suffix == "stl")

    async def run(self, planned: Sequence[Arrival], *, seconds: float) -> Outcome:
        """Send every request at its time, and wait for the answers."""
        started = time.monotonic()
        tasks: list[asyncio.Task[Answer]] = []
        async with asyncio.TaskGroup() as group:
            for arrival in planned:
                delay = started + arrival.at_seconds - time.monotonic()
                if delay > 0:
                    await asyncio.sleep(delay)
                tasks.append(group.create_task(self._answer(arrival, started + arrival.at_seconds)))
        self.close()
        return Outcome(seconds, [task.result() for task in tasks])

    async def one(self, kind: Kind) -> Answer:
        """Send one request now."""
        return await self._answer(Arrival(0.0, kind), time.monotonic())

    def close(self) -> None:
        """Close the connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _answer(self, arrival: Arrival, due: float) -> Answer:
        status = 0
        if self._busy < MOST_AT_ONCE:
            self._busy += 1
            try:
                async with asyncio.timeout(GIVEN_UP_SECONDS):
                    status = await self._send(self._request(arrival))
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                status = 0
            finally:
                self._busy -= 1
        return Answer(arrival.at_seconds, arrival.kind, arrival.sender, status, time.monotonic() - due)

    def _request(self, arrival: Arrival) -> bytes:
        number = next(self._numbers)
        match arrival.kind:
            case Kind.OPERATORS:
                return self._get("/v1/orders?limit=50", Role.OPERATOR)
            case Kind.LISTS:
                return self._get("/v1/orders?status=SHIPPED&limit=200", Role.SERVICE)
            case Kind.HISTORY:
                return self._get(f"/v1/orders/{self.order_ids[number % len(self.order_ids)]}")
            case Kind.CREATION:
                return self._post(arrival.sender, number)

    def _get(self, path: str, role: Role = Role.ADMIN) -> bytes:
        return "\r\n".join([f"GET {path} HTTP/1.1", *self._headers(role), "", ""]).encode()

    def _headers(self, role: Role = Role.ADMIN) -> list[str]:
        return [f"Host: {urlsplit(self.url).netloc}", f"Authorization: Bearer {self.keys[role]}"]

    def _post(self, sender: str, number: int) -> bytes:
        mark = "load-test-boundary"
        fields = {"material": "brass", "finish": "matte", "quantity": "1"}
        parts = [
            f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        parts.append(f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="ring.stl"\r\n\r\n')
        body = "".join(parts).encode() + self._model.data + f"\r\n--{mark}--\r\n".encode()
        head = [
            f"POST /v1/partners/{sender}/orders HTTP/1.1",
            *self._headers(),
            f"Idempotency-Key: load-{number}",
            f"Content-Type: multipart/form-data; boundary={mark}",
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join([*head, "", ""]).encode() + body

    async def _send(self, request: bytes) -> int:
        """Send a request over an idle connection or a new one, and return the status."""
        reader, writer = self._idle.pop() if self._idle else await self._connect()
        is_done = False
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            is_done = b"\r\nconnection: close" not in head
        finally:
            if is_done:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return int(head[9:12])

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.url)
        return await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
