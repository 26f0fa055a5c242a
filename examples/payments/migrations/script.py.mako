<% generated = upgrades and upgrades != "pass" %>\
"""${message}"""

% if generated:
import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
% else:
from ops.migrate import frozen

% endif
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
phase = "pre"  # or "post": docs/how-to/migrations.md


def upgrade() -> None:
% if generated:
    """Change the schema."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    ${upgrades}
% else:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")
% endif


def downgrade() -> None:
% if generated:
    """Change it back."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    ${downgrades}
% else:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
% endif
