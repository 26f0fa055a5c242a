"""What the board alone can refuse."""

from app.board.actions import ActionRefused
from app.board.repository import ListCursorMalformed
from app.kit.errors import AppError
from app.kit.problem import Statuses


class NothingToShow(AppError):
    """A line of an order has no model, or it is gone, or nothing was drawn of it."""

    def __init__(self, order_id: int, line_no: int) -> None:
        self.order_id = order_id
        self.line_no = line_no
        super().__init__(f"there is nothing to show of line {line_no} of order {order_id}")


STATUSES: Statuses = {ListCursorMalformed: 400, ActionRefused: 409, NothingToShow: 404}
"""What they are worth in HTTP."""
