"""Who staff are to the OpenID provider."""

from ops.migrate import frozen

revision = "0015"
down_revision = "0013"
phase = "pre"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
