"""The statements of a run before which a test kills it: each of them in `make soak`, some in `make test`."""

import os
import zlib
from collections.abc import Iterator
from itertools import count

EVERY = os.environ.get("MES_STORAGE_KILL_EVERY")


def kill_points(*, every: int = 4) -> Iterator[int]:
    """Yield the numbers of statements without an end: a test stops when its run was not killed.

    Parameters:
        every: one statement in so many; `MES_STORAGE_KILL_EVERY` overrules it. The first one depends on the
            name of the test, so that all tests together kill at each.
    """
    step = int(EVERY or every)
    name = os.environ.get("PYTEST_CURRENT_TEST", "")
    return count(zlib.crc32(name.encode()) % step, step)
