"""The heads of the audit logs, apart from the logs."""

from ops.migrate import frozen

revision = "0011"
down_revision = "0010"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
