"""Where the tests' servers have their data: in memory, where there is plenty of it.

A test that changes a schema costs a database of about 370 files, on the primary and on its replica. To make
them on a disk takes more CPU the more were removed before (measured on ext4: 0.02 s for the second clone,
0.28 s for the fifteenth, and as much on the replica; in memory 0.02 s for each).
"""

import os
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 6 * 2**30
"""Two test processes, each with a platform, were seen to use 1.6 GB at most."""


def roomy_memory(folder: Path = SHARED_MEMORY, *, enough_bytes: int = ENOUGH_BYTES) -> Path | None:
    """Give a folder that lies in memory; None where it is not there, too small, or runs no programs.

    A container often has 64 MB there, and its mount forbids what some tests do: to run a script of their own.
    """
    try:
        system = os.statvfs(folder)
        available_bytes = min(system.f_bavail * system.f_frsize, _available_bytes())
    except OSError:
        return None
    is_fit = not system.f_flag & (os.ST_NOEXEC | os.ST_RDONLY) and os.access(folder, os.W_OK)
    return folder if is_fit and available_bytes >= enough_bytes else None


def _available_bytes() -> int:
    # The size of such a file system is a limit, and no promise that the memory is there.
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
