"""How payments are partitioned, and when they leave for the archive."""

from datetime import timedelta

from sqlalchemy import Index

from partitions import ArchivePolicy, Child, ListPartitions, Policy, declare_partitions
from payments.models import Base, Payment, PaymentArchive, PaymentEvent, PaymentEventArchive, State

LIVE = ListPartitions(
    Payment,
    key=Payment.state,
    groups={"payments_open": [State.OPEN], "payments_done": [State.DONE]},
    row_id=Payment.payment_id,
    indexes={"payments_done": [Index("payments_done_finished", Payment.finished_at)]},
)
ARCHIVE = ArchivePolicy(
    live="payments_done",
    partition_of=Payment,
    archive=PaymentArchive,
    row_id=Payment.payment_id,
    range_key=Payment.created_at,
    finished_at=Payment.finished_at,
    grace=timedelta(days=30),
    children=[Child(PaymentEvent, archive=PaymentEventArchive, key=PaymentEvent.payment_id)],
)
POLICIES: tuple[Policy, ...] = (LIVE, *ARCHIVE.months())
ARCHIVES = (ARCHIVE,)

declare_partitions(Base.metadata, POLICIES, ARCHIVES)
