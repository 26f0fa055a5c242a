"""Hooks for an httpx client that send the token kept so far, and keep what comes back. httpx is not imported.

client = AsyncClient(base_url=..., event_hooks=CausalClient().async_hooks())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from readreplica.context import learn, required_token
from readreplica.errors import TokenMalformed
from readreplica.signing import MOST_TOKENS, TOKEN_HEADER, TokenText
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_SYSTEM, Position, merge_positions

if TYPE_CHECKING:
    from httpx import Request, Response

__all__ = ["CausalClient"]

_TURN = "causal_turn"


class _Kept(NamedTuple):
    """What an answer has brought for one database."""

    position: Position
    text: str
    turn: int
    """How many answers had come by then."""


class CausalClient:
    """Keeps, for one user of one or more clients, what later answers must have seen.

    It cannot sign, so it keeps texts as they came, for each database the one that is furthest. They go out
    together, with commas between, and the service merges them: answers may come in any order. Of more than a
    header may hold the newest go out; the answer brings all of them as one, which leaves room for the others.
    """

    def __init__(self, *, text: TokenText | None = None) -> None:
        """Begin with nothing.

        Parameters:
            text: for calls from one service to another: signs the token of the request or the message that
                the call is made for, adds what comes back to it, and keeps nothing between calls.
        """
        self._text = text
        self._kept: dict[str, _Kept] = {}
        self._turn = 0

    def hooks(self) -> dict[str, list[Any]]:
        """Return `event_hooks` for an `httpx.Client`."""
        return {"request": [self.send_token], "response": [self.keep_token]}

    def async_hooks(self) -> dict[str, list[Any]]:
        """Return `event_hooks` for an `httpx.AsyncClient`."""
        return {"request": [self.send_token_async], "response": [self.keep_token_async]}

    def send_token(self, request: Request) -> None:
        """Put what is kept into a request, beside what its caller put there."""
        own = request.headers.get(TOKEN_HEADER)
        texts = dict.fromkeys([own] if own else [])
        around = required_token() if self._text is not None else None
        if self._text is not None and around:
            texts[self._text.write(around)] = None
        newest = sorted(self._kept.values(), key=lambda kept: kept.turn, reverse=True)
        room = MOST_TOKENS - sum(text.count(",") + 1 for text in texts)
        texts |= dict.fromkeys(list(dict.fromkeys(kept.text for kept in newest))[: max(room, 0)])
        request.extensions[_TURN] = self._turn
        if texts:
            request.headers[TOKEN_HEADER] = ",".join(texts)

    def keep_token(self, response: Response) -> None:
        """Keep what an answer brings. An empty header says that what was sent is not good any more."""
        text = response.headers.get(TOKEN_HEADER)
        if text == "":
            self._kept.clear()
        elif text:
            self._keep(text, sent_at=_sent_at(response))

    async def send_token_async(self, request: Request) -> None:
        """Call `send_token`, for an `AsyncClient`."""
        self.send_token(request)

    async def keep_token_async(self, response: Response) -> None:
        """Call `keep_token`, for an `AsyncClient`."""
        self.keep_token(response)

    def _keep(self, text: str, *, sent_at: int) -> None:
        try:
            token = self._text.read(text) if self._text else CausalToken.decode(text.partition("!")[0])
        except TokenMalformed:
            return  # of a later version, or of another key: this client does without
        if self._text is not None:
            learn(token)  # each call carries what its own caller has seen, and nothing of another's
            return
        self._turn += 1
        for cluster, position in token.positions.items():
            mine = self._kept.get(cluster)
            if mine is None or _is_newer(position, mine, sent_at=sent_at):
                self._kept[cluster] = _Kept(position, text, self._turn)


def _sent_at(response: Response) -> int:
    try:
        return int(response.request.extensions.get(_TURN, 0))
    except RuntimeError:  # it answers no request
        return 0


def _is_newer(position: Position, mine: _Kept, *, sent_at: int) -> bool:
    """Return whether an answer's position replaces the one that is kept.

    A position of no known system is given up only for the answer to a request that has carried it.
    """
    if UNKNOWN_SYSTEM in (position.system_identifier, mine.position.system_identifier):
        was_sent = mine.turn <= sent_at and position.timeline >= mine.position.timeline
        return position.system_identifier == UNKNOWN_SYSTEM or was_sent
    return merge_positions(mine.position, position) == position
