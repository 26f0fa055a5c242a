"""What the library owns of this schema is recorded as its version 1."""

from ops.migrate.library import forget_version, record_version

revision = "0005"
down_revision = "0004"
phase = "pre"
library_schema = 1


def upgrade() -> None:
    """Verify it against the library's own, and record it."""
    record_version("shard", 1)


def downgrade() -> None:
    """Take the record away; the tables stay."""
    forget_version("shard", 1)
