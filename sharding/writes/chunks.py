"""Rows cut into chunks, each for one shard and bounded in rows and bytes. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sharding.writes.rows import Row


@dataclass(frozen=True)
class Chunk:
    """Rows of one shard that are written in one transaction, in the order in which they came."""

    shard: str
    rows: Sequence[Row]

    @property
    def keys(self) -> tuple[int, int]:
        """The least and the greatest shard key."""
        keys = [row.key for row in self.rows]
        return min(keys), max(keys)


@dataclass
class Chunker:
    """Gathers rows by shard, and gives a chunk when one more row would make it too large.

    It holds at most one chunk for each shard, however long the input is.

    Parameters:
        max_rows: rows of a chunk at most.
        max_bytes: their size at most; a larger row is a chunk of its own.
    """

    max_rows: int
    max_bytes: int
    _open: dict[str, list[Row]] = field(default_factory=dict)
    _bytes: dict[str, int] = field(default_factory=dict)

    def add(self, shard: str, row: Row) -> Chunk | None:
        """Take a row; give the shard's chunk if it is full without it."""
        rows, held = self._open.get(shard, []), self._bytes.get(shard, 0)
        if rows and (len(rows) >= self.max_rows or held + row.size_bytes > self.max_bytes):
            self._open[shard], self._bytes[shard] = [row], row.size_bytes
            return Chunk(shard, rows)
        rows.append(row)
        self._open[shard], self._bytes[shard] = rows, held + row.size_bytes
        return None

    def rest(self) -> Iterator[Chunk]:
        """Give what is left, after the last row."""
        for shard, rows in self._open.items():
            yield Chunk(shard, rows)
        self._open, self._bytes = {}, {}


def regroup(chunk: Chunk, shard_of: Callable[[int], str]) -> Iterable[Chunk]:
    """Cut a chunk by the shards that its rows belong to now."""
    parts: dict[str, list[Row]] = {}
    for row in chunk.rows:
        parts.setdefault(shard_of(row.key), []).append(row)
    return [Chunk(shard, rows) for shard, rows in parts.items()]
