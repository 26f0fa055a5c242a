"""${message}"""

from migrations import frozen

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
phase = "pre"  # or "post": docs/migrations.md


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
