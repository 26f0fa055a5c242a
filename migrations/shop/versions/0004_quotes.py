"""A price is valid until a moment, and names the rates that are in it."""

from ops.migrate import frozen

revision = "0004"
down_revision = "0003"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
