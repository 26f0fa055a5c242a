"""A partner's own reference of an order, and what its webhooks owe it."""

from ops.migrate import frozen

revision = "0014"
down_revision = "0012"
phase = "pre"
lint_allows = {
    "require-concurrent-index-creation": "only the archive job writes to the archive, and it waits",
}


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
