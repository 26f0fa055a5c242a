"""What it costs a change of an order to write down who made it."""

import time
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from app import audit_log
from app.kit.caller import Caller, Door, Role, calling
from app.kit.clock import utc_now
from app.kit.logs import LogFile, configure_logging
from app.log_events import SCHEMA
from app.messaging.events import OrderApproved
from app.models.crm import CrmOrder
from app.models.status import Channel, Status
from app.orders import CRM, add_order, lock_order, record_event
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from tests.benchmarks.harness import Measured, benchmark, platform

PAIRS, WARM = 400, 40
ADA = Caller(
    name="Ada", role=Role.SELLER, door=Door.STAFF, identity_id=7, credential="abc", address="192.0.2.1"
)


async def _priced(crm: Cluster, order_id: int) -> None:
    async def work(session: WriteSession) -> None:
        order = CrmOrder(
            order_id=order_id,
            status=Status.PRICE_CALCULATED,
            channel=Channel.B2B,
            summary="a ring",
            price=Decimal("412.50"),
            partner="atelier-nord",
        )
        await add_order(session, CRM, order, actor="mes", now=utc_now())

    await crm.transact(work)


async def _approve(crm: Cluster, order_id: int) -> float:
    """Approve an order as the CRM does; return the seconds that it took."""

    async def work(session: WriteSession) -> None:
        order = await lock_order(session, CRM, order_id)
        await record_event(session, CRM, order, OrderApproved(actor="Ada"), now=utc_now())

    began = time.perf_counter()
    with calling(ADA):
        await crm.transact(work)
    return time.perf_counter() - began


async def _write_nothing(*_: Any) -> None:
    """Stand in for the line."""


@benchmark(name="audit_cost", target=1.25)
async def audit_cost() -> Measured:
    """Approve orders, with the line of the audit log and without it, by turns."""
    log = LogFile(Path("build/bench-audit.log"), max_bytes=10_000_000, kept=1)
    configure_logging("bench", level="error", schema=SCHEMA, file=log)
    pairs = []
    with platform() as topology, pytest.MonkeyPatch.context() as patch:
        async with open_cluster(topology, "crm", role="crm", application_name="bench") as crm:
            written = audit_log.record
            for number in range(PAIRS):
                spent = {}
                for is_written in (True, False) if number % 2 else (False, True):
                    order_id = 2 * number + is_written + 1
                    await _priced(crm, order_id)
                    patch.setattr(audit_log, "record", written if is_written else _write_nothing)
                    spent[is_written] = await _approve(crm, order_id)
                    patch.setattr(audit_log, "record", written)
                pairs.append((spent[True], spent[False]))
    line, none = (median(each) * 1e3 for each in zip(*pairs[WARM:], strict=True))
    return Measured(line / none, f"{line:.2f} ms for a change with its line, {none:.2f} ms without")
