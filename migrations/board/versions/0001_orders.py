"""Orders as their services say they are, for those who read lists of them."""

from ops.migrate import frozen

revision = "0001"
down_revision = None
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
