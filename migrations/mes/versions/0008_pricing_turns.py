"""The senders of orders take turns at being priced."""

from ops.migrate import frozen

revision = "0008"
down_revision = "0007"
phase = "pre"
lint_allows = {
    "require-concurrent-index-creation": "it holds what waits to be priced: some thousand rows at most"
}


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
