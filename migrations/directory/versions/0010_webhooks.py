"""Where partners want to hear of their orders."""

from ops.migrate import frozen

revision = "0010"
down_revision = "0008"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
