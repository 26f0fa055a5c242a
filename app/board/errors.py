"""What the board alone can refuse."""

from app.board.actions import ActionRefused
from app.board.repository import CursorMalformed
from app.kit.problem import Statuses

STATUSES: Statuses = {CursorMalformed: 400, ActionRefused: 409}
"""What they are worth in HTTP."""
