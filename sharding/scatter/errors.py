"""What can go wrong with a SELECT over all shards. Each error names the object and the way out."""

from sharding.errors import ShardingError


class ScatterRefused(ShardingError):
    """This SELECT cannot be answered exactly from the shards' answers."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the SELECT cannot run over all shards: {reason}")


class ScatterFailed(ShardingError):
    """A shard could not answer its part of a scattered SELECT; the cause is chained."""

    def __init__(self, shard: str, cause: BaseException | str) -> None:
        self.shard = shard
        super().__init__(f"shard {shard} failed its part of the SELECT: {cause}")


class ValueUnreadable(ScatterFailed):
    """The page holds a value that PostgreSQL has and Python has not, such as infinity in a date.

    One database gives such a page no more than several do.
    """

    def __init__(self, shard: str, cause: BaseException | str) -> None:
        super().__init__(shard, f"Python has no such value, so cast it to Text: {cause}")


class ShardTimedOut(ScatterFailed):
    """A shard did not answer in time; its query is cancelled, or its connection is closed."""

    def __init__(self, shard: str, *, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        super().__init__(shard, f"no answer in {timeout_seconds:g} s (Bounds.timeout_seconds)")


class TooManyGroups(ShardingError):
    """A shard has more groups than a caller may hold in memory."""

    def __init__(self, shard: str, *, groups: int) -> None:
        self.shard = shard
        self.groups = groups
        super().__init__(
            f"shard {shard} has more than {groups} groups: narrow the SELECT by WHERE, group by the shard "
            "key as well, or raise Bounds.groups"
        )


class CursorMalformed(ShardingError, ValueError):
    """The page cursor is not one that `scatter` has handed out: forged, cut, or signed by a key now gone."""

    def __init__(self, cursor: str) -> None:
        self.cursor = cursor
        super().__init__(f"{cursor[:40]!r} is no page cursor: use next_cursor of the page before, or none")


class CursorOfAnotherQuery(CursorMalformed):
    """The page cursor is genuine, but of another SELECT, of other parameters, or of another order."""

    def __init__(self, cursor: str) -> None:
        super().__init__(cursor)
        self.args = (
            f"the page cursor {cursor[:40]!r} belongs to another query, other parameters or another order: "
            "begin again without a cursor",
        )
