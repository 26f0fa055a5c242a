"""Alembic runs this for every tree; what it does stands in `ops.migrate.env`, of the wheel `mesctl`."""

from ops.migrate.env import run

run()
