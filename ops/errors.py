"""The base of the errors of `mesctl`, the exit statuses, and the command that helps with an error."""

import sys
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any


class ExitStatus(IntEnum):
    """What `mesctl` returns to the shell."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    """Nothing was changed, because a check refused it."""


class OpsError(Exception):
    """One clear line for the person at the terminal: what happened, to what, and what to do."""

    exit_status = ExitStatus.FAILED


class ChangeRefused(OpsError):
    """Nothing was changed, because a check refused it; the library's error says why."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(str(cause))


Write = Callable[[Any], str]

COMMANDS: Mapping[str, str | Write] = {
    "partitions.errors:DefaultPartitionBlocks": "mesctl partitions apply --since YYYY-MM",
    "partitions.errors:ValueHeld": lambda error: (
        f"mesctl partitions split {error.table} {error.partition} --value {error.value} --into NEW"
    ),
    "partitions.errors:TooManyRows": lambda error: f"--max-rows {error.rows}",
    "sharding.errors:BucketNotOwned": "mesctl shards check",
    "sharding.errors:ShardUnnamed": "mesctl migrate upgrade, then mesctl shards init",
    "sharding.errors:ShardMapMissing": "mesctl shards init",
    "sharding.errors:OwnershipConflict": "mesctl shards init",
    "sharding.writes.errors:PreparedDisabled": "mesctl shards in-doubt list",
    "sharding.writes.errors:UnitRefused": "mesctl shards check",
    "sharding.writes.errors:UnitInDoubt": "mesctl shards in-doubt resolve",
    "sharding.writes.errors:UnknownTransaction": "mesctl shards in-doubt list",
    "sharding.writes.errors:NotClosable": "mesctl shards in-doubt list",
    "sharding.writes.errors:ReferenceMismatch": "mesctl migrate drift",
    "sharding.errors:DistributionConflict": "mesctl migrate upgrade",
    "sharding.errors:UnknownPlacement": "mesctl shards citus placements --shards",
    "sharding.errors:AdministratorNeeded": "--role NAME",
}
"""The command for an error, by MODULE:NAME of its class. A text, or what makes it of the error's facts."""


def command_for(error: BaseException) -> str | None:
    """Return the command that helps with an error, if there is one.

    No class is imported for it: an error of a module that was not imported cannot have been raised.
    """
    for place, command in COMMANDS.items():
        module, _, name = place.partition(":")
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return command if isinstance(command, str) else command(error)
    return None
