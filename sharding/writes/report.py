"""What became of a bulk write, shard by shard."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from readreplica.token import CausalToken


@dataclass
class ShardReport:
    """The rows of one shard. `given` is the sum of the five counts below it.

    Parameters:
        shard: its name.
        given: rows that belong to it.
        written: rows that were inserted or updated.
        skipped: rows that were there already, or, of an update, were not there.
        failed: rows of chunks that were rolled back; a chunk is written whole or not at all.
        in_doubt: rows of chunks whose COMMIT was not answered; each of these is there whole, or not at all.
        not_tried: rows that were left because the write had stopped, or the shard was out.
        rerouted: rows among `given` that another shard refused, because it no longer owned their bucket.
        chunks: transactions that were committed.
        seconds: time spent with the shard.
        first_error: the first failure, in words.
        unwritten_keys: the least and the greatest key of the rows that are not known to be written.
        is_out: whether the shard was given up: it timed out, or could not be reached twice.
        token: what a read must have seen to see every commit.
    """

    shard: str
    given: int = 0
    written: int = 0
    skipped: int = 0
    failed: int = 0
    in_doubt: int = 0
    not_tried: int = 0
    rerouted: int = 0
    chunks: int = 0
    seconds: float = 0.0
    first_error: str | None = None
    unwritten_keys: tuple[int, int] | None = None
    is_out: bool = False
    token: CausalToken = field(default_factory=CausalToken)

    @property
    def unwritten(self) -> int:
        """Rows that are not known to be written."""
        return self.failed + self.in_doubt + self.not_tried

    def widen(self, keys: tuple[int, int]) -> None:
        """Note keys of rows that were not written."""
        low, high = self.unwritten_keys or keys
        self.unwritten_keys = min(low, keys[0]), max(high, keys[1])

    def as_facts(self) -> dict[str, Any]:
        """Give it for JSON: keys as text, because JavaScript loses integers above 2^53."""
        keys = self.unwritten_keys
        return {
            **{name: value for name, value in vars(self).items() if name not in {"token", "unwritten_keys"}},
            "unwritten_keys": keys and [str(key) for key in keys],
            "token": self.token.encode(),
        }


@dataclass
class BulkReport:
    """What became of a bulk write.

    Parameters:
        shards: a report for each shard that was given rows.
        refused: rows that never reached a shard, because they cannot be written.
        first_refusal: why the first of these was refused.
    """

    shards: dict[str, ShardReport] = field(default_factory=dict)
    refused: int = 0
    first_refusal: str | None = None

    def of(self, shard: str) -> ShardReport:
        """Give the report of a shard."""
        return self.shards.setdefault(shard, ShardReport(shard))

    @property
    def written(self) -> int:
        """Rows written on all shards."""
        return sum(report.written for report in self.shards.values())

    @property
    def is_complete(self) -> bool:
        """Whether every row was written or skipped."""
        return not self.refused and not any(report.unwritten for report in self.shards.values())

    @property
    def token(self) -> CausalToken:
        """What a read must have seen to see every commit of every shard."""
        token = CausalToken()
        for report in self.shards.values():
            token = token.merge(report.token)
        return token

    def summary(self) -> str:
        """Tell in one line what was written, and what was not."""
        parts = [_words_of(report) for _, report in sorted(self.shards.items())]
        if self.refused:
            parts.append(f"{self.refused} rows refused ({self.first_refusal})")
        return "; ".join(parts) or "no rows"


def _words_of(report: ShardReport) -> str:
    counts: Mapping[str, int] = {
        "skipped": report.skipped,
        "failed": report.failed,
        "in doubt": report.in_doubt,
        "not tried": report.not_tried,
    }
    words = [f"{report.shard}: {report.written} of {report.given} rows written"]
    words += [f"{count} {what}" for what, count in counts.items() if count]
    if report.unwritten_keys:
        words.append("keys {} to {}".format(*report.unwritten_keys))
    return ", ".join(words) + (f" ({report.first_error})" if report.first_error else "")
