"""What the clients know for themselves: the orders that were accepted, whatever the services say later."""

from dataclasses import dataclass, field

from app.console.demo.plan import Errand


@dataclass(slots=True)
class Ledger:
    """The clients' own book.

    Parameters:
        accepted: each order for which the client got a 2xx, with what was wanted.
        races: how often two operators took the same order at once, and one of them got it.
    """

    accepted: dict[str, Errand] = field(default_factory=dict)
    races: int = 0
    _claims: set[tuple[str, str]] = field(default_factory=set)

    def accept(self, order_id: str, errand: Errand) -> None:
        """Note that a service has promised to make an order."""
        self.accepted[order_id] = errand

    def claim(self, order_id: str, work: str) -> bool:
        """Say "mine" to the colleagues at the same desk; False when one of them was faster."""
        mine = (order_id, work) not in self._claims
        self._claims.add((order_id, work))
        return mine
