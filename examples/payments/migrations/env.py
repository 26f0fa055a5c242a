"""What alembic runs: the engine of `mesctl migrate`, for every database of the tree."""

from ops.migrate.env import run

run()
