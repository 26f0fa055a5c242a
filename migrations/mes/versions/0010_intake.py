"""Partners' orders are taken in before they are placed."""

from ops.migrate import frozen

revision = "0010"
down_revision = "0009"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
