"""What partners ask the price of without an order."""

from ops.migrate import frozen

revision = "0017"
down_revision = "0016"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
