"""How each verb of `mesctl` is run on the topology of examples/payments."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from typer.core import TyperGroup

from ops.errors import ExitStatus
from ops.ports import PortPicker
from ops.verbs import VERBS
from partitions import Month
from tests.integration.payments_rig import PaymentsTeam

MONTH = f"payments_archive_{Month.of(datetime.now(UTC)).later(3)}".replace("-", "_")
UNIT = "feedbeef" * 4

ROWS: Mapping[str, Sequence[str]] = {
    "up": ["--no-fsync"],
    "status": [""],
    "init": ["../another --tree notes"],
    "doctor": [""],
    "migrate adopt": ["--dry-run"],
    "migrate status": [""],
    "migrate plan": [""],
    "migrate upgrade": [""],
    "migrate downgrade": ["base --tree payments --dry-run"],
    "migrate drift": [""],
    "migrate lint": [""],
    "migrate freeze": ["--dry-run"],
    "partitions list": [""],
    "partitions plan": [""],
    "partitions apply": [""],
    "partitions check": ["", "--deep"],
    "problems": [""],
    "partitions detach": [f"payments_archive {MONTH}"],
    "partitions drop": [f"payments_archive {MONTH} --delay-days 0 --dry-run"],
    "partitions attach": [f"payments_archive {MONTH}"],
    "partitions index": ["payments payments_cents --columns cents --dry-run"],
    "partitions analyze": ["payments"],
    "partitions add": ["payments payments_open --value held"],
    "partitions split": ["payments payments_open --value held --into payments_held"],
    "partitions merge": ["payments payments_held --into payments_open"],
    "archive run": [""],
    "archive status": [""],
    "shards list": [""],
    "shards locate": ["7"],
    "shards init": [""],
    "shards check": [""],
    "shards plan": [""],
    "shards in-doubt list": [""],
    "shards in-doubt resolve": [""],
    "shards in-doubt close": [f"{UNIT} --dry-run"],
    "shards reference check": [""],
    "shards reference sync": [""],
    "shards reference load": ["/dev/null"],
    "shards citus health": [""],
    "shards citus placements": [""],
    "shards citus plan": [""],
    "shards citus rebalance": ["--dry-run"],
    "shards citus drain": ["127.0.0.1:5432 --dry-run"],
    "shards citus undrain": ["127.0.0.1:5432 --dry-run"],
    "shards citus move": ["102008 --to 127.0.0.1:5432 --dry-run"],
    "shards citus isolate": ["7 --dry-run"],
    "shards citus columnar": [f"{MONTH} --dry-run"],
    "shards citus preflight": [""],
    "shards citus tables": [""],
    "replicas list": [""],
    "replicas lag": [""],
    "replicas watch": ["--count 2 --every-seconds 0.1"],
    "replicas switchover": ["north --to north_copy --dry-run"],
    "monitoring exporter": ["--once"],
    "monitoring render": ["watch --dry-run"],
    "monitoring check": [""],
    "monitoring rules": [""],
    "pages serve": ["--port 9188 --check"],
    "pages link": ["--port 9188"],
    "forecast": [""],
    "bundle": ["incident.tar.gz"],
    "gateway render": ["doors --dry-run"],
    "gateway routes": [""],
    "gateway check": [""],
    "gateway reload": ["doors --dry-run"],
    "gateway rotate": ["doors"],
    "pgbouncer render": ["--out pooler"],
    "pgbouncer secrets": [""],
    "pgbouncer check": [""],
    "pgbouncer reload": [""],
    "pgbouncer pause": ["north"],
    "pgbouncer resume": ["north"],
    "pgbouncer reconnect": ["north"],
    "down": [""],
}
"""The arguments of each run of a verb, in the order in which the verbs are run."""


def verbs() -> Iterator[str]:
    """Yield every verb of `mesctl` that runs something, but for those of a project."""
    for name, verb in VERBS.items():
        yield from _leaves(name, verb.load(name))


def _leaves(path: str, command: object) -> Iterator[str]:
    if not isinstance(command, TyperGroup):
        yield path
        return
    for name, part in command.commands.items():
        yield from _leaves(f"{path} {name}", part)


@dataclass(frozen=True)
class VerbRun:
    """What a run of a verb came to."""

    verb: str
    arguments: str
    status: int
    said: str

    @property
    def works(self) -> bool:
        """Whether it did its work, or a check refused it and said why."""
        return self.status == ExitStatus.DONE or (self.status == ExitStatus.REFUSED and bool(self.said))

    def __str__(self) -> str:
        """Return it with its status and the end of what it said."""
        return f"`{self.verb} {self.arguments}`: {self.status}, {self.said[-200:]}".replace("\n", " ")


def run_verbs(team: PaymentsTeam, *, has_pooler: bool) -> Iterator[VerbRun]:
    """Run every verb that has a row, in the order of the rows.

    Parameters:
        has_pooler: whether PgBouncer is on this machine; without it, its verbs are not run.
    """
    if has_pooler:
        port = PortPicker(random.Random()).pick()
        with (team.root / "topology.toml").open("a") as topology:
            topology.write(f'\n[pgbouncer]\nhost = "127.0.0.1"\nport = {port}\n')
    for verb, runs in ROWS.items():
        if verb.startswith("pgbouncer") and not has_pooler:
            continue
        for arguments in runs:
            done = team.mesctl(*verb.split(), *arguments.split())
            yield VerbRun(verb, arguments, done.returncode, done.stderr.strip())
