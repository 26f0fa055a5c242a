"""The numbers of the price list are finite, not negative and within bounds."""

from ops.migrate import frozen

revision = "0004"
down_revision = "0003"
phase = "pre"
lint_allows = {"constraint-missing-not-valid": "a price list has a few dozen rows"}


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
