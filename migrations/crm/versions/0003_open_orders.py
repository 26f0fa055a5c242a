"""Orders in an open status are found without a look at those that have ended."""

from alembic import op

revision = "0003"
down_revision = "0002"
phase = "pre"

OPEN = (
    "status IN ('FILE_UPLOADED', 'INITIATED', 'MANUFACTURING_APPROVED', 'MANUFACTURING_COMPLETED',"
    " 'MANUFACTURING_STARTED', 'PACKAGING', 'PRICE_CALCULATED', 'SHIPPED', 'SUBMITTED')"
)


def upgrade() -> None:
    """Create the index; no writer waits."""
    op.create_partial_index(
        "orders_open_idx", table="orders", columns=["status", "changed_at"], where=OPEN, concurrently=True
    )


def downgrade() -> None:
    """Drop it again."""
    op.drop_partial_index(
        "orders_open_idx", table="orders", columns=["status", "changed_at"], where=OPEN, concurrently=True
    )
