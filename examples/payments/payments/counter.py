"""The service: takes payments, and shows them. `mesctl up` runs `python -m payments.counter`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, PositiveInt
from sqlalchemy import select

from payments.models import Payment, PaymentArchive, PaymentEvent, State
from readreplica import TokenText, follow_causality, parse_keys
from readreplica.asgi import CausalTokens
from sharding import IdGenerator, ShardedSessions, Topology, open_ids, open_sessions

TOPOLOGY = Topology.load(os.environ["MES_STORAGE_TOPOLOGY"])


class NewPayment(BaseModel):
    """What a client sends."""

    cents: PositiveInt


class ShownPayment(BaseModel):
    """What a client gets. The id is a text: JavaScript's numbers end at 2**53."""

    payment_id: str
    state: str
    cents: int

    @classmethod
    def of(cls, payment: Payment | PaymentArchive) -> "ShownPayment":
        """Return what a client gets of a row."""
        return cls(payment_id=str(payment.payment_id), state=payment.state, cents=payment.cents)


@dataclass(frozen=True)
class Storage:
    """What an endpoint works with: sessions that find shard and replica, and ids for new payments."""

    sessions: ShardedSessions
    ids: IdGenerator


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the databases open while the service runs."""
    async with open_sessions(TOPOLOGY, application_name="payments") as sessions, open_ids(TOPOLOGY) as ids:
        follow_causality(*sessions.clusters.values())
        app.state.storage = Storage(sessions, ids)
        yield


def storage_of(request: Request) -> Storage:
    """Return what `lifespan` has opened."""
    storage: Storage = request.app.state.storage
    return storage


Opened = Annotated[Storage, Depends(storage_of)]

app = FastAPI(title="Payments", lifespan=lifespan)
app.add_middleware(CausalTokens, text=TokenText(parse_keys(os.environ["PAYMENTS_TOKEN_KEYS"])))


@app.post("/tenants/{tenant_id}/payments", status_code=201)
async def take(tenant_id: int, wanted: NewPayment, storage: Opened) -> ShownPayment:
    """Take a payment, on its tenant's shard."""
    payment = Payment(
        tenant_id=tenant_id,
        payment_id=storage.ids.next_id(),
        cents=wanted.cents,
        state=State.OPEN,
        created_at=datetime.now(UTC),
    )
    taken = PaymentEvent(tenant_id=tenant_id, payment_id=payment.payment_id, number=1, words="taken")
    async with storage.sessions.write(tenant_id) as session:
        session.add_all([payment, taken])
    return ShownPayment.of(payment)


@app.get("/tenants/{tenant_id}/payments/{payment_id}")
async def show(tenant_id: int, payment_id: int, storage: Opened, response: Response) -> ShownPayment:
    """Show a payment, live or archived, from a replica that has what this client has written."""
    live = select(Payment).where(Payment.tenant_id == tenant_id, Payment.payment_id == payment_id)
    archived = select(PaymentArchive).where(
        PaymentArchive.tenant_id == tenant_id, PaymentArchive.payment_id == payment_id
    )
    async with storage.sessions.read(tenant_id) as session:
        found = await session.scalar(live) or await session.scalar(archived)
    if found is None:
        raise HTTPException(404, f"tenant {tenant_id} has no payment {payment_id}")
    response.headers["Read-On"] = session.node or ""
    return ShownPayment.of(found)


if __name__ == "__main__":
    place = TOPOLOGY.sections["services"]["counter"]
    uvicorn.run(app, host=place["host"], port=place["port"])
