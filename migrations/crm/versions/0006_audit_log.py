"""Who has changed what, in lines that are sealed."""

from ops.migrate import frozen

revision = "0006"
down_revision = "0005"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
