"""What customers are written, and which order has taken a rejected one's place."""

from ops.migrate import frozen

revision = "0002"
down_revision = "0001"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
