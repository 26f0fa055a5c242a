"""Trees and id spaces in a shared directory."""

from ops.migrate import frozen

revision = "0004"
down_revision = "0003"
phase = "pre"
lint_allows = {
    "require-concurrent-index-creation": (
        "1,024 leases, a row for each version of a map, and one for each published version of a reference "
        "table: built in milliseconds"
    )
}


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
