"""The people of the demo: customers and partners who order, sellers at the CRM, operators at the MES."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from app.console.demo.client import GuaranteeViolated, HttpRefusal, Json, RetryingClient
from app.console.demo.plan import AcceptedOrders, Deviation, PlannedOrder
from app.models.status import DONE, Status

LOOK_EVERY_SECONDS = 0.5
"""How often a person looks at an empty list again."""
LIST_LIMIT = 50
PILE = 5
"""How many orders a seller takes from a list at a time; the others are the colleagues'."""
CONFLICT = 409
MAKING = (Status.MANUFACTURING_COMPLETED, Status.PACKAGING, Status.SHIPPED)
"""An operator's steps once the order is taken."""
DRAFTS = frozenset({Status.INITIATED, Status.FILE_UPLOADED})


class ShopCustomer:
    """Wants one piece, and orders it in the Shop."""

    def __init__(self, planned: PlannedOrder, *, shop: RetryingClient, accepted: AcceptedOrders) -> None:
        self._planned = planned
        self._shop = shop
        self._accepted = accepted
        self._link = ""

    async def visit(self) -> None:
        """Start an order, upload the model, order it."""
        order_id = await _order_once(self._start, impatient=self._planned.impatient)
        self._shop = self._shop.bearing(self._link)
        await self._upload(order_id)
        await self._submit(order_id)
        self._accepted.accept(order_id, self._planned)

    async def _start(self) -> str:
        planned = self._planned
        wanted = {
            "customer": {
                "name": planned.buyer,
                "email": f"{planned.buyer.replace(' ', '.').lower()}@example.org",
            },
            "material": planned.material,
            "finish": planned.finish,
            "quantity": planned.quantity,
        }
        order = await self._shop.send(
            "POST", "/v1/orders", json=wanted, headers={"Idempotency-Key": planned.key}
        )
        self._link = str(order.get("link"))
        return str(order["order_id"])

    async def _upload(self, order_id: str) -> None:
        await self._shop.send("PUT", f"/v1/orders/{order_id}/model", files=_file(self._planned))

    async def _submit(self, order_id: str) -> None:
        order = f"/v1/orders/{order_id}"
        await self._shop.change(f"{order}/submit", {}, look=order, done=_is_submitted)


class Partner:
    """Orders for its own customers, by a program that calls the MES API."""

    def __init__(self, planned: PlannedOrder, *, mes: RetryingClient, accepted: AcceptedOrders) -> None:
        self._planned = planned
        self._mes = mes
        self._accepted = accepted

    async def visit(self) -> None:
        """Post the order; when the answer is lost, post it again with the same key."""
        order_id = await _order_once(self._post, impatient=self._planned.impatient)
        self._accepted.accept(order_id, self._planned)

    async def _post(self) -> str:
        planned = self._planned
        order = await self._mes.send(
            "POST",
            f"/v1/partners/{planned.buyer}/orders",
            data={"material": planned.material, "finish": planned.finish, "quantity": str(planned.quantity)},
            files=_file(planned),
            headers={"Idempotency-Key": planned.key},
        )
        return str(order["order_id"])


async def _order_once(order: Callable[[], Awaitable[str]], *, impatient: bool) -> str:
    """Order; an impatient buyer does so twice at once, and must get one order all the same."""
    order_ids = set(await asyncio.gather(order(), order())) if impatient else {await order()}
    if len(order_ids) > 1:
        raise GuaranteeViolated(sorted(order_ids), "one idempotency key made more than one order")
    return order_ids.pop()


def _file(planned: PlannedOrder) -> dict[str, tuple[str, bytes]]:
    return {"file": (f"{planned.shape.name}.{planned.shape.suffix}", planned.shape.data)}


def _is_submitted(order: Json) -> bool:
    return Status(order["status"]) not in DRAFTS


async def pause(day_over: asyncio.Event) -> None:
    """Wait for new work, or for the end of the day."""
    try:
        await asyncio.wait_for(day_over.wait(), timeout=LOOK_EVERY_SECONDS)
    except TimeoutError:
        return


class Seller:
    """Confirms prices with the buyers, and closes what was delivered; `crm` bears the seller's key."""

    def __init__(self, *, crm: RetryingClient, accepted: AcceptedOrders) -> None:
        self._crm = crm
        self._accepted = accepted

    async def day(self, day_over: asyncio.Event) -> None:
        """Go through the list of priced orders, then the delivered ones, until the day is over."""
        while not day_over.is_set():
            priced = await self._pile(Status.PRICE_CALCULATED)
            for order_id in priced:
                await self._call_buyer(order_id)
            shipped = await self._pile(Status.SHIPPED)
            for order_id in shipped:
                await self._change(order_id, "close", done={Status.CLOSED})
            if not priced and not shipped:
                await pause(day_over)

    async def _pile(self, status: Status) -> list[str]:
        """Take the newest orders of a status that no colleague has taken."""
        page = await self._crm.get("/v1/orders", status=status.value, limit=LIST_LIMIT)
        pile: list[str] = []
        for order_id in (str(order["order_id"]) for order in page["orders"]):
            # A buyer who has not got an answer yet cannot be called: the order waits for the next look.
            known = order_id in self._accepted.by_id
            if len(pile) < PILE and known and self._accepted.claim(order_id, status):
                pile.append(order_id)
        return pile

    async def _call_buyer(self, order_id: str) -> None:
        deviation = self._accepted.by_id[order_id].deviation
        if deviation is Deviation.DECLINES:
            await self._cancel(order_id, "too expensive")
            return
        await self._change(order_id, "approve", done=set(Status) - {Status.PRICE_CALCULATED})
        if deviation is Deviation.CALLS_OFF:
            await self._cancel(order_id, "changed their mind")

    async def _cancel(self, order_id: str, reason: str) -> None:
        # A repeated request does no harm: the CRM asks MES once. MES decides, and may have begun already.
        request = {"reason": reason}
        try:
            await self._crm.send("POST", f"/v1/orders/{order_id}/cancel", json=request)
        except HttpRefusal as refused:
            if refused.status != CONFLICT:
                raise

    async def _change(self, order_id: str, verb: str, *, done: set[Status]) -> None:
        order = f"/v1/orders/{order_id}"
        await self._crm.change(f"{order}/{verb}", {}, look=order, done=lambda seen: seen["status"] in done)


class Operator:
    """Takes the newest approved order, makes it, packs it, hands it to the carrier.

    `colleague` is who reaches for a contested order at the same moment.
    """

    def __init__(self, name: str, *, mes: RetryingClient, accepted: AcceptedOrders) -> None:
        self.name = name
        self._mes = mes
        self._accepted = accepted
        self.colleague: Self | None = None

    async def day(self, day_over: asyncio.Event) -> None:
        """Work on one order after the other until the day is over."""
        while not day_over.is_set():
            order_id = await self._newest()
            if order_id is None:
                await pause(day_over)
            elif (maker := await self.take_or_race(order_id)) is not None:
                await maker.make(order_id)

    async def make(self, order_id: str) -> None:
        """Make what this operator has taken, step by step."""
        for step in MAKING:
            await self._advance(order_id, step)

    async def take(self, order_id: str) -> bool:
        """Take an order; False when a colleague was faster, or its buyer."""
        order = f"/v1/orders/{order_id}"
        try:
            await self._mes.change(f"{order}/take", {}, look=order, done=self._have_it)
        except HttpRefusal as refused:
            if refused.status == CONFLICT:
                return False
            raise
        return True

    async def _newest(self) -> str | None:
        page = await self._mes.get("/v1/orders", status=Status.MANUFACTURING_APPROVED.value, limit=LIST_LIMIT)
        order_ids = (str(order["order_id"]) for order in page["orders"])
        return next((order_id for order_id in order_ids if self._accepted.claim(order_id, "take")), None)

    async def take_or_race(self, order_id: str) -> Self | None:
        """Take an order, a contested one against a colleague; return who has it now, if one of the two."""
        planned = self._accepted.by_id.get(order_id)
        if self.colleague is not None and planned is not None and planned.deviation is Deviation.CONTESTED:
            return await self._race(order_id, self.colleague)
        return self if await self.take(order_id) else None

    async def _race(self, order_id: str, colleague: Self) -> Self:
        mine, theirs = await asyncio.gather(self.take(order_id), colleague.take(order_id))
        if mine == theirs:
            what = "was given to both" if mine else "was refused to both"
            raise GuaranteeViolated([order_id], f"{what}, {self.name} and {colleague.name}")
        self._accepted.races += 1
        return self if mine else colleague

    async def _advance(self, order_id: str, to: Status) -> None:
        order = f"/v1/orders/{order_id}"
        following = set(MAKING[MAKING.index(to) :]) | DONE
        await self._mes.change(
            f"{order}/advance",
            {"to": to.value},
            look=order,
            done=lambda seen: seen["status"] in following,
        )

    def _have_it(self, order: Json) -> bool:
        return order["status"] != Status.MANUFACTURING_APPROVED and order.get("operator") == self.name
