"""Faults of the machinery: an order has no part in them, and another attempt may succeed."""

from sqlalchemy.exc import SQLAlchemyError

from app.files import FilesUnavailable
from app.pricing.errors import BadRate, SandboxUnavailable
from readreplica.errors import Unavailable

# OSError covers TimeoutError and connections that are refused outside of SQLAlchemy.
DATABASE_AWAY = (SQLAlchemyError, Unavailable, OSError)
"""What a unit of work raises when its database is away or too busy."""

OUTAGES = (*DATABASE_AWAY, FilesUnavailable, SandboxUnavailable, BadRate)
"""The same, for work that reads and measures model files, and the price list, as well."""


def first_line(error: Exception) -> str:
    """Shorten an error for the log: SQLAlchemy's go on with the statement and a link."""
    return str(error).partition("\n")[0]
