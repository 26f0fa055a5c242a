"""Those who order: a customer in the Shop, and a partner at the MES API."""

import asyncio
from collections.abc import Awaitable, Callable

from app.console.demo.client import Json, PatientClient
from app.console.demo.errors import PromiseBroken
from app.console.demo.ledger import Ledger
from app.console.demo.plan import Errand
from app.models.status import Status

DRAFTS = frozenset({Status.INITIATED, Status.FILE_UPLOADED})


class Customer:
    """Wants one piece, and orders it in the Shop."""

    def __init__(self, errand: Errand, *, shop: PatientClient, ledger: Ledger) -> None:
        self._errand = errand
        self._shop = shop
        self._ledger = ledger

    async def visit(self) -> None:
        """Start an order, upload the model, order it."""
        order_id = await _order_once(self._start, impatient=self._errand.impatient)
        await self._upload(order_id)
        await self._submit(order_id)
        self._ledger.accept(order_id, self._errand)

    async def _start(self) -> str:
        errand = self._errand
        wanted = {
            "customer": {
                "name": errand.buyer,
                "email": f"{errand.buyer.replace(' ', '.').lower()}@example.org",
            },
            "material": errand.material,
            "finish": errand.finish,
            "quantity": errand.quantity,
        }
        order = await self._shop.send(
            "POST", "/v1/orders", json=wanted, headers={"Idempotency-Key": errand.key}
        )
        return str(order["order_id"])

    async def _upload(self, order_id: str) -> None:
        await self._shop.send("PUT", f"/v1/orders/{order_id}/model", files=_file(self._errand))

    async def _submit(self, order_id: str) -> None:
        order = f"/v1/orders/{order_id}"
        await self._shop.change(f"{order}/submit", {}, look=order, done=_is_submitted)


class Partner:
    """Orders for its own customers, by a program that calls the MES API."""

    def __init__(self, errand: Errand, *, mes: PatientClient, ledger: Ledger) -> None:
        self._errand = errand
        self._mes = mes
        self._ledger = ledger

    async def visit(self) -> None:
        """Post the order; when the answer is lost, post it again with the same key."""
        order_id = await _order_once(self._post, impatient=self._errand.impatient)
        self._ledger.accept(order_id, self._errand)

    async def _post(self) -> str:
        errand = self._errand
        order = await self._mes.send(
            "POST",
            f"/v1/partners/{errand.buyer}/orders",
            data={"material": errand.material, "finish": errand.finish, "quantity": str(errand.quantity)},
            files=_file(errand),
            headers={"Idempotency-Key": errand.key},
        )
        return str(order["order_id"])


async def _order_once(order: Callable[[], Awaitable[str]], *, impatient: bool) -> str:
    """Order; an impatient buyer does so twice at once, and must get one order all the same."""
    order_ids = set(await asyncio.gather(order(), order())) if impatient else {await order()}
    if len(order_ids) > 1:
        raise PromiseBroken(sorted(order_ids), "one idempotency key made more than one order")
    return order_ids.pop()


def _file(errand: Errand) -> dict[str, tuple[str, bytes]]:
    return {"file": (f"{errand.shape.name}.{errand.shape.suffix}", errand.shape.data)}


def _is_submitted(order: Json) -> bool:
    return Status(order["status"]) not in DRAFTS
