"""The fallback budget: how many reads may go to the primary because no replica was fit. Pure.

Without it a fleet of replicas that fall behind would topple the primary, which then has all reads to serve,
and the replicas would fall behind further.
"""

from threading import Lock


class FallbackBudget:
    """A token bucket. What may be held at a time is counted by whoever holds it, and passed in."""

    def __init__(self, *, per_second: float, burst: int, concurrency: int) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._concurrency = concurrency
        self._left = self._burst
        self._counted_at: float | None = None
        self._lock = Lock()

    def take(self, *, now: float, in_use: int) -> float:
        """Take one read out of the budget.

        Parameters:
            now: a monotonic clock, in seconds.
            in_use: how many connections to the primary are held by readers.

        Returns:
            0 if it may go on; otherwise after how many seconds it is worth asking again.
        """
        with self._lock:
            return self._take(now=now, in_use=in_use)

    def _take(self, *, now: float, in_use: int) -> float:
        passed = 0.0 if self._counted_at is None else max(0.0, now - self._counted_at)
        self._counted_at = now
        self._left = min(self._burst, self._left + passed * self._per_second)
        if self._left < 1:
            return (1 - self._left) / self._per_second if self._per_second > 0 else 60.0
        if in_use >= self._concurrency:
            return 1 / self._per_second if self._per_second > 0 else 1.0
        self._left -= 1
        return 0.0
