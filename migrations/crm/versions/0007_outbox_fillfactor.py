"""A message that was sent stays on its page: what counts the sendings changes no index."""

from ops.migrate import frozen

revision = "0007"
down_revision = "0006"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
