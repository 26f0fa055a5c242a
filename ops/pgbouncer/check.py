"""Compare a running pooler with what it should be. Pure: rows of the console in, findings out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ops.pgbouncer.admin import DBNAME, Row, is_paused
from ops.pgbouncer.plan import SizedPool
from ops.pgbouncer.render import PoolerConfig, settings_of
from ops.pgbouncer.versions import Version

RELOAD = "mesctl pgbouncer render, then mesctl pgbouncer reload"
RESTART = "mesctl pgbouncer render, then restart PgBouncer: this setting is not reloaded"
LONG_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class PoolerFinding:
    """One difference or trouble, with its fix."""

    process: str
    about: str
    found: str
    wanted: str
    fix: str


@dataclass(frozen=True)
class RunningPooler:
    """What the console of one process shows."""

    process: str
    version: Version
    config: Sequence[Row]
    databases: Sequence[Row]
    pools: Sequence[Row]
    users: Sequence[Row]


def compare(wanted: PoolerConfig, running: RunningPooler) -> list[PoolerFinding]:
    """Return where the running pooler differs from the wanted one, and every pool whose clients wait."""
    return [
        *_version(wanted, running),
        *_settings(wanted, running),
        *_databases(wanted, running),
        *_users(wanted, running),
        *_waits(running),
    ]


def _version(wanted: PoolerConfig, running: RunningPooler) -> Iterator[PoolerFinding]:
    if running.version != wanted.version:
        fix = f'set pgbouncer.version = "{running.version}" in the topology, and render again'
        yield PoolerFinding(running.process, "version", str(running.version), str(wanted.version), fix)


def _settings(wanted: PoolerConfig, running: RunningPooler) -> Iterator[PoolerFinding]:
    config = {str(row["key"]): row for row in running.config}
    for key, value in settings_of(wanted).items():
        row = config.get(key)
        if row is None:
            yield PoolerFinding(running.process, key, "no such setting", value, "run a PgBouncer that has it")
        elif str(row["value"]) != value:
            fix = RELOAD if row.get("changeable") == "yes" else RESTART
            yield PoolerFinding(running.process, key, str(row["value"]), value, fix)


def _databases(wanted: PoolerConfig, running: RunningPooler) -> Iterator[PoolerFinding]:
    rows = {str(row["name"]): row for row in running.databases if row["name"] != DBNAME}
    pools = {sized.pool.entry: sized for sized in wanted.pools}
    for entry in sorted(pools.keys() - rows.keys()):
        yield PoolerFinding(running.process, f"pool {entry}", "missing", "present", RELOAD)
    for entry in sorted(rows.keys() - pools.keys()):
        yield PoolerFinding(running.process, f"pool {entry}", "present", "missing", RELOAD)
    for entry in sorted(rows.keys() & pools.keys()):
        yield from _entry(running.process, rows[entry], pools[entry])


def _entry(process: str, row: Row, sized: SizedPool) -> Iterator[PoolerFinding]:
    wanted = {
        "host": sized.server.host,
        "port": sized.server.port,
        "database": sized.dbname,
        "pool_size": sized.size,
        "max_connections": sized.size,
        "force_user": None,
    }
    for key, value in wanted.items():
        if str(row.get(key) or "") != str(value or ""):
            yield PoolerFinding(
                process, f"pool {sized.pool.entry} {key}", str(row.get(key)), str(value), RELOAD
            )
    if is_paused(row):
        fix = f"mesctl pgbouncer resume {sized.pool.node}"
        yield PoolerFinding(process, f"pool {sized.pool.entry}", "paused", "running", fix)
    if str(row.get("disabled", "0")) not in ("0", "no"):
        fix = f'ENABLE "{sized.pool.entry}" on the console'
        yield PoolerFinding(process, f"pool {sized.pool.entry}", "disabled", "enabled", fix)


def _users(wanted: PoolerConfig, running: RunningPooler) -> Iterator[PoolerFinding]:
    known = {str(row["name"]) for row in running.users}
    needed = {sized.pool.role for sized in wanted.pools} | {wanted.section.admin}
    for role in sorted(needed - known):
        yield PoolerFinding(running.process, f"user {role}", "missing", "in the userlist", RELOAD)


def _waits(running: RunningPooler) -> Iterator[PoolerFinding]:
    sizes = {str(row["name"]): _number(row, "pool_size") for row in running.databases}
    for row in running.pools:
        entry = str(row["database"])
        waited = _number(row, "maxwait") + _number(row, "maxwait_us") / 1e6
        waiting, active = _number(row, "cl_waiting"), _number(row, "sv_active")
        about = f"pool {entry} as {row['user']}"
        if waited >= LONG_WAIT_SECONDS:
            fix = "end long transactions, or give the pool more (weight, pool_size, max_connections)"
            yield PoolerFinding(
                running.process, about, f"{waiting:g} clients wait, {waited:.1f} s", "under 1 s", fix
            )
        elif waiting and active >= sizes.get(entry, 0):
            fix = "give the pool more (weight, pool_size), if this lasts"
            yield PoolerFinding(
                running.process, about, f"full: {active:g} active, {waiting:g} clients wait", "free", fix
            )


def _number(row: Mapping[str, object], key: str) -> float:
    return float(str(row.get(key) or 0))
