"""Payments, their history, and the archive of both: as `alembic revision --autogenerate` wrote it."""

import sqlalchemy as sa
from alembic import op

revision = "5c1e7a90d2b4"
down_revision = None
phase = "pre"  # it runs before the new code starts

GRANT = """
GRANT SELECT, INSERT, UPDATE, DELETE
ON payments, payments_open, payments_done, payment_events, payments_archive, payment_events_archive
TO cashier
"""


def upgrade() -> None:
    """Make the tables and their partitions, guard them, and let the service in."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "payment_events",
        sa.Column("payment_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("payment_id", "tenant_id", "number"),
        info={"shard_key": "tenant_id"},
    )
    op.create_partitioned_table(
        "payment_events_archive",
        sa.Column("payment_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("payment_id", "tenant_id", "created_at", "number"),
        partition_by="RANGE (created_at)",
    )
    op.create_partitioned_table(
        "payments",
        sa.Column("payment_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cents", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("payment_id", "tenant_id", "state"),
        partition_by="LIST (state)",
    )
    op.create_partitioned_table(
        "payments_archive",
        sa.Column("payment_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cents", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("payment_id", "tenant_id", "created_at"),
        partition_by="RANGE (created_at)",
    )
    op.create_partition(
        "payments_open",
        of="payments",
        values=["open"],
    )
    op.create_partition(
        "payments_done",
        of="payments",
        values=["done"],
    )
    op.create_index("payments_done_finished", "payments_done", ["finished_at"], unique=False)
    op.create_shard_guard("payments", key="tenant_id", version=1)
    op.create_shard_guard("payment_events", key="tenant_id", version=1)
    op.create_shard_guard("payments_archive", key="tenant_id", version=1)
    op.create_shard_guard("payment_events_archive", key="tenant_id", version=1)
    op.execute(GRANT)  # the one thing that was added by hand


def downgrade() -> None:
    """Drop them."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_shard_guard("payment_events_archive", key="tenant_id", version=1)
    op.drop_shard_guard("payments_archive", key="tenant_id", version=1)
    op.drop_shard_guard("payment_events", key="tenant_id", version=1)
    op.drop_shard_guard("payments", key="tenant_id", version=1)
    op.drop_index("payments_done_finished", table_name="payments_done")
    op.drop_partition(
        "payments_done",
        of="payments",
        values=["done"],
    )
    op.drop_partition(
        "payments_open",
        of="payments",
        values=["open"],
    )
    op.drop_table("payments_archive")
    op.drop_table("payments")
    op.drop_table("payment_events_archive")
    op.drop_table("payment_events")
