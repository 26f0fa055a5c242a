"""Who may call: partners, staff and services, and their API keys."""

from ops.migrate import frozen

revision = "0008"
down_revision = "0007"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
