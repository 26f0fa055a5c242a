"""The list of what was rejected and not ordered again is read off an index."""

from alembic import op

revision = "0003"
down_revision = "0002"
phase = "pre"

_NAME, _TABLE = "orders_done_rejected_idx", "orders_done"
_WHERE = "status = 'REJECTED' AND replaced_by IS NULL"


def upgrade() -> None:
    """Make the index while the board serves."""
    op.create_partial_index(_NAME, _TABLE, ["changed_at", "order_id"], where=_WHERE, concurrently=True)


def downgrade() -> None:
    """Drop it."""
    op.drop_partial_index(_NAME, _TABLE, ["changed_at", "order_id"], where=_WHERE, concurrently=True)
