"""The client's side: hooks for httpx that send the token kept so far, and keep what comes back.

client = AsyncClient(base_url=..., event_hooks=CausalClient().async_hooks())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.causality.ambient import note, wanted
from app.causality.wire import TOKEN_HEADER, TokenText
from readreplica.errors import TokenMalformed
from readreplica.token import CausalToken, Position

if TYPE_CHECKING:
    from httpx import Request, Response


class CausalClient:
    """Keeps, for one user of one or more clients, what later answers must have seen.

    It cannot sign, so it keeps texts as they came, for each database the one that is furthest. They go out
    together, with commas between, and the service merges them: answers may come in any order.
    """

    def __init__(self, *, text: TokenText | None = None) -> None:
        """Begin with nothing.

        Parameters:
            text: for calls from one service to another: signs the token of the request or the message that
                the call is made for, adds what comes back to it, and keeps nothing between calls.
        """
        self._text = text
        self._kept: dict[str, tuple[Position, str]] = {}

    def hooks(self) -> dict[str, list[Any]]:
        """Give `event_hooks` for an `httpx.Client`."""
        return {"request": [self.send_token], "response": [self.keep_token]}

    def async_hooks(self) -> dict[str, list[Any]]:
        """Give `event_hooks` for an `httpx.AsyncClient`."""
        return {"request": [self.send_token_async], "response": [self.keep_token_async]}

    def send_token(self, request: Request) -> None:
        """Put what is kept into a request, beside what its caller put there."""
        own = request.headers.get(TOKEN_HEADER)
        texts = dict.fromkeys([own] if own else [])
        around = wanted() if self._text is not None else None
        if self._text is not None and around:
            texts[self._text.write(around)] = None
        texts |= dict.fromkeys(text for _, text in self._kept.values())
        if texts:
            request.headers[TOKEN_HEADER] = ",".join(texts)

    def keep_token(self, response: Response) -> None:
        """Keep what an answer brings. An empty header says that what was sent is not good any more."""
        text = response.headers.get(TOKEN_HEADER)
        if text == "":
            self._kept.clear()
        elif text:
            self._keep(text)

    async def send_token_async(self, request: Request) -> None:
        """Do the same for an AsyncClient."""
        self.send_token(request)

    async def keep_token_async(self, response: Response) -> None:
        """Do the same for an AsyncClient."""
        self.keep_token(response)

    def _keep(self, text: str) -> None:
        try:
            token = self._text.read(text) if self._text else CausalToken.decode(text.partition("!")[0])
        except TokenMalformed:
            return  # of a later version, or of another key: this client does without
        if self._text is not None:
            note(token)  # each call carries what its own caller has seen, and nothing of another's
            return
        for cluster, position in token.positions.items():
            mine = self._kept.get(cluster)
            if mine is None or mine[0].system_identifier != position.system_identifier or mine[0] < position:
                self._kept[cluster] = (position, text)
