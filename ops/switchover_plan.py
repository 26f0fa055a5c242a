"""What a planned switch-over checks before it changes anything, and its script for psql."""

from ops.replicas.switchover import EXCEPTED, FENCE, IDS, IN_FORCE, NOW, PROMOTE, RELOAD, UNDER_WAY, UNFENCE, query_column
from readreplica.wal import SELECT_RECORD_END, SELECT_HAS_REPLAYED
from ops.fleet import connect_line
from ops.replicas.nodes import PRIMARY_NODE, NodeWatcher
from ops.replicas.switchover import Switchover, SwitchoverRefused, connect_node
from sharding.topology import Topology

MAX_LAG_BYTES = 16 << 20
"""A replica that is further behind is not switched to: the writes would be held up for too long."""


def plan_switchover(topology: Topology, name: str, *, to: str, superuser: str = "postgres") -> Switchover:
    """Check that a database can be switched over to a replica.

    Raises:
        SwitchoverRefused: it cannot, or had better not.
        UnknownDatabase: there is no such database.
    """
    rows = {row.node: row for row in NodeWatcher(topology, [name]).look()}
    if to not in rows:
        raise SwitchoverRefused(name, f"it has no node {to!r}; it has {', '.join(rows)}")
    old = next((row.node for row in rows.values() if row.role == "primary"), None)
    if old is None:
        raise SwitchoverRefused(name, "its primary does not answer; that is a failover, not a switch-over")
    target = rows[to]
    if target.role == "primary":
        raise SwitchoverRefused(name, f"{to} is its primary already")
    if target.role != "replica" or target.state != "serves reads":
        raise SwitchoverRefused(name, f"{to} is no replica in order: {target.state}")
    if target.lag_bytes is None or target.lag_bytes > MAX_LAG_BYTES:
        raise SwitchoverRefused(name, f"{to} is {target.lag_bytes} bytes behind; wait until it has caught up")
    plan = Switchover(topology.database(name), old, to, superuser)
    with connect_node(topology, plan.database, old, role=superuser) as connection:
        excepted = ", ".join(query_column(connection, EXCEPTED))
    if excepted:
        fault = f"default_transaction_read_only is off for {excepted}, whose writes nothing would hold back"
        raise SwitchoverRefused(name, f"{fault}; ALTER ROLE or ALTER DATABASE ... RESET it")
    return plan


def switchover_script(topology: Topology, plan: Switchover) -> str:
    """Give what `switch_over` does as a script for psql.

    Where `switch_over` waits, the script looks once and stops: run again, it goes on.
    """
    old, new = (_connect_line(topology, plan, node) for node in (plan.old, plan.new))
    who = _on_one_line(UNDER_WAY.format(fence=":'fence'"))
    nobody = _or_stop(f"SELECT count(*) = 0 AS nobody FROM ({who}) AS who", "nobody")
    position = f"SELECT position FROM ({_on_one_line(POSITION)}) AS server(position)"
    replayed = SELECT_HAS_REPLAYED.format(position=":'position'")
    unchanged = f"SELECT ({IDS}) = :'ids' AS unchanged"
    parts = [
        f"\\set ON_ERROR_STOP on\n-- {plan.old} takes no new writes.\n",
        f"-- Before pg_promote, and never after it, this takes it back: {UNFENCE}; {RELOAD};\n",
        f"{old}{FENCE};\n{RELOAD};\n",
        f"{old}{_or_stop(f'{IN_FORCE} AS in_force', 'in_force')}{NOW} AS fence \\gset\n",
        f"-- who has begun before that may write still\n{who};\n{nobody}",
        f"{IDS} AS ids \\gset\n{position} \\gset\n",
        f"-- {plan.new} has all of it, and nothing was written behind it\n",
        f"{new}{_or_stop(f'{replayed} AS replayed', 'replayed')}",
        f"{old}{nobody}{_or_stop(unchanged, 'unchanged')}",
        f"{new}{PROMOTE};\n",
        f"-- f: look who has written on {plan.old} since, before it is rewound\n{old}{unchanged};\n",
    ]
    return "".join(parts)


def _or_stop(query: str, name: str) -> str:
    """Give lines that stop the script unless a query is true."""
    stop = f"\\echo 'not {name}: run this again, or take the fence back'\n\\quit\n"
    return f"{query} \\gset\n\\if :{name}\n\\else\n{stop}\\endif\n"


def _on_one_line(query: str) -> str:
    return " ".join(query.split())


def _connect_line(topology: Topology, plan: Switchover, node: str) -> str:
    database = plan.database
    if node != PRIMARY_NODE:
        database = database.model_copy(update={"primary": database.replica(node)})
    return connect_line(topology, database, role=plan.superuser)
