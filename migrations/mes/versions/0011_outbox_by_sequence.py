"""The relay finds what was written last without reading what has gone."""

from alembic import op

revision = "0011"
down_revision = "0010"
phase = "pre"


def upgrade() -> None:
    """Make the index while services write."""
    op.create_partial_index(
        "outbox_destination_sequence_idx",
        "outbox",
        ["destination", "sequence"],
        where="set_aside_at IS NULL",
        concurrently=True,
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_partial_index(
        "outbox_destination_sequence_idx",
        "outbox",
        ["destination", "sequence"],
        where="set_aside_at IS NULL",
        concurrently=True,
    )
