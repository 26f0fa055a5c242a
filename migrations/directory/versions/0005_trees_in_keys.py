"""Keys with the tree and the id space."""

from ops.migrate import frozen

revision = "0005"
down_revision = "0004"
phase = "post"


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
