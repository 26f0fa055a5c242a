"""What can go wrong between a session and its cluster. SQLAlchemy's own errors pass through as they are."""


class ReadReplicaError(Exception):
    """Base of every error of this package."""


class TokenMalformed(ReadReplicaError, ValueError):
    """The text is not a causal token that this version can read."""

    def __init__(self, text: str, fault: str) -> None:
        self.text = text
        self.fault = fault
        super().__init__(f"{text[:40]!r} is no causal token: {fault}; send back what an earlier answer gave")


class LsnMalformed(ReadReplicaError, ValueError):
    """The text is not a WAL position."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(f"{text[:40]!r} is no LSN: PostgreSQL writes one as two hexadecimal numbers, X/Y")


class RetriesExhausted(ReadReplicaError):
    """A unit of work met a concurrent transaction at every attempt; the last error is chained."""

    def __init__(self, cluster: str, *, attempts: int, sqlstate: str) -> None:
        self.cluster = cluster
        self.attempts = attempts
        self.sqlstate = sqlstate
        super().__init__(
            f"a transaction on {cluster} was given up after {attempts} attempts, the last one ended by "
            f"SQLSTATE {sqlstate}: another transaction wants the same rows; try again later"
        )
