"""What the library owns of this schema is recorded as its version 1."""

from alembic import op

from ops.migrate.library import forget_version, record_version

revision = "0006"
down_revision = "0005"
_NO_BOARD = """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'board') THEN
            REVOKE ALL ON shard_map_versions, node_leases FROM board;
        END IF;
    END $$
"""

phase = "post"
library_schema = 1


def upgrade() -> None:
    """Verify it against the library's own, and record it."""
    record_version("directory", 1)


def downgrade() -> None:
    """Take the record away; the tables stay."""
    forget_version("directory", 1)
    # The library grants them to all who use the directory. The revisions before this one know no board.
    op.execute(_NO_BOARD)
