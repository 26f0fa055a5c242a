"""Keys with the tree and the id space."""

from ops.migrate import frozen

revision = "0005"
down_revision = "0004"
phase = "post"
lint_allows = {
    "ban-drop-constraint": "each key is replaced, in its statement, by the one with the tree or the id space",
    "ban-drop-default": "the code that runs by now names its tree in every INSERT",
}


def upgrade() -> None:
    """Run the frozen SQL upwards."""
    frozen.run(__file__, "up")


def downgrade() -> None:
    """Run the frozen SQL downwards."""
    frozen.run(__file__, "down")
