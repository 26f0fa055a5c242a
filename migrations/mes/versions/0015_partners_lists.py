"""A partner's list of orders is read off an index."""

from alembic import op

revision = "0015"
down_revision = "0014"
phase = "pre"

_INDEXES = {
    f"{table}_{'_'.join(columns)}_idx": (table, [*columns, "order_id"], where)
    for table in ("orders_hot", "orders_done")
    for columns, where in (
        (("partner",), "partner IS NOT NULL"),
        (("partner", "status"), "partner IS NOT NULL"),
        (("partner", "reference"), "reference IS NOT NULL"),
    )
}


def upgrade() -> None:
    """Make the indexes while services write."""
    for name, (table, columns, where) in _INDEXES.items():
        op.create_partial_index(name, table, columns, where=where, concurrently=True)


def downgrade() -> None:
    """Drop them."""
    for name, (table, columns, where) in _INDEXES.items():
        op.drop_partial_index(name, table, columns, where=where, concurrently=True)
