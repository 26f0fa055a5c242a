"""What the board alone can refuse."""

from app.board.actions import ActionRefused
from app.board.repository import ListCursorMalformed
from app.kit.problem import Statuses

STATUSES: Statuses = {ListCursorMalformed: 400, ActionRefused: 409}
"""What they are worth in HTTP."""
