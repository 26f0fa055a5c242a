"""A lease that expired is no attempt that came to nothing."""

from ops.migrate import frozen

revision = "0012"
down_revision = "0011"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
