"""Which sessions of staff have ended."""

from ops.migrate import frozen

revision = "0016"
down_revision = "0015"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
