"""What can go wrong while the demo plays its clients."""

from collections.abc import Sequence

from ops.errors import OpsError


class DemoError(OpsError):
    """Base of the demo's errors."""


class NotNow(DemoError):
    """The service did not do it, and says that it may later: no connection, or 503."""

    def __init__(self, request: str, reason: str) -> None:
        self.request = request
        super().__init__(f"{request}: {reason}")


class AnswerLost(NotNow):
    """The connection broke after the request was sent: it may or may not have been done."""


class Refused(DemoError):
    """The service answered no, as problem+json."""

    def __init__(self, request: str, status: int, problem: str) -> None:
        self.request = request
        self.status = status
        super().__init__(f"{request}: {status}, {problem}")


class PromiseBroken(DemoError):
    """A service did what it must never do."""

    def __init__(self, order_ids: Sequence[str], what: str) -> None:
        self.order_ids = tuple(order_ids)
        super().__init__(f"order {', '.join(order_ids)}: {what}")
