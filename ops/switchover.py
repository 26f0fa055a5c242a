"""A planned switch-over of a database to one of its replicas: drain, catch up, promote."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import psycopg

from ops.connect import ServerUnresponsive, connected
from ops.errors import ExitStatus, OpsError
from ops.replicas.switchover import FENCE, IDS, IN_FORCE, NOW, PROMOTE, RELOAD, UNDER_WAY, UNFENCE, query_column, query_value
from readreplica.wal import SELECT_RECORD_END, SELECT_HAS_REPLAYED
from ops.replicas.nodes import PRIMARY_NODE
from ops.waiting import wait_until
from readreplica.poller import connect_arguments
from sharding.topology import Database, Topology

IN_RECOVERY = "SELECT pg_is_in_recovery()"


class SwitchoverRefused(OpsError):
    """A check says that the switch-over would go wrong; nothing was changed."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, database: str, fault: str) -> None:
        self.database = database
        self.fault = fault
        super().__init__(f"{database} is not switched over: {fault}")


class SwitchoverGivenUp(OpsError):
    """The switch-over was begun and taken back: the old primary takes writes again."""

    def __init__(self, database: str, fault: str) -> None:
        self.database = database
        self.fault = fault
        super().__init__(f"{database} was not switched over: {fault}; its primary takes writes again")


class SwitchoverUnfinished(OpsError):
    """The switch-over was begun, and is neither done nor taken back: the old primary refuses writes."""

    def __init__(self, database: str, *, old: str, fault: str) -> None:
        self.database = database
        self.old = old
        self.fault = " ".join(fault.split())
        super().__init__(
            f"{database}: {self.fault}; {old} stays read-only, for two could take writes otherwise: "
            'docs/runbooks/failover.md, "A switch-over did not end"'
        )


@dataclass(frozen=True, slots=True)
class Switchover:
    """A planned switch-over: from which node to which, and the superuser that does it."""

    database: Database
    old: str
    new: str
    superuser: str


def switch_over(
    topology: Topology, plan: Switchover, *, timeout_seconds: float, report: Callable[[str], None]
) -> None:
    """Hold writes back on the primary, let the replica catch up, and promote it.

    Every process that writes through the library gets 25006 from the old primary meanwhile, gives its pool
    up, and finds the new primary by its role. The old one stays fenced: it is on an older timeline now.

    Parameters:
        topology: where the database is.
        plan: what `plan_switchover` gave.
        timeout_seconds: how long transactions under way, then replay, then the promotion may take.
        report: is told of each step.

    Raises:
        SwitchoverGivenUp: they took longer; writes go on where they were.
        SwitchoverUnfinished: nobody takes writes until a person has looked.
    """
    steps = _Steps(topology, plan, timeout_seconds, report)
    with connect_node(topology, plan.database, plan.new, role=plan.superuser) as new:
        with steps.fenced():
            ids = steps.catch_up(new)
            report(f"{plan.new} is promoted")
        # From here on two would take writes if the fence were taken back: a promotion cannot be.
        steps.promote(new)
    steps.look_behind(ids)


@dataclass(frozen=True)
class _Steps:
    """The steps of one switch-over."""

    topology: Topology
    plan: Switchover
    timeout_seconds: float
    report: Callable[[str], None]

    @contextmanager
    def fenced(self) -> Iterator[None]:
        """Hold writes back, and let them go again where the block ends with an error."""
        database, old = self.plan.database.name, self.plan.old
        self.report(f"{old} takes no new writes")
        try:
            self._set_fence(FENCE)
            yield
        except BaseException as error:
            try:
                self._set_fence(UNFENCE)
            except psycopg.Error as fault:
                raise SwitchoverUnfinished(database, old=old, fault=f"{error}; then {fault}") from error
            if isinstance(error, psycopg.Error):
                raise SwitchoverGivenUp(database, " ".join(str(error).split())) from error
            raise

    def catch_up(self, new: psycopg.Connection) -> str:
        """Wait until the replica has all that the primary will have written; give the primary's next id."""
        self._wait(self._open)
        with self._connect(self.plan.old) as old:
            fence = query_value(old, NOW)
            told: set[str] = set()

            def under_way() -> str:
                found = query_column(old, UNDER_WAY, fence=fence)
                for who in sorted({*found} - told):
                    self.report(f"waits for {who}")
                told.update(found)
                return f"under way: {', '.join(found)}" if found else ""

            self._wait(under_way)
            self.report(f"{self.plan.new} replays what {self.plan.old} has written")
            ids = ""

            def behind() -> str:
                nonlocal ids
                ids, position = query_value(old, IDS), query_value(old, SELECT_RECORD_END)
                if not query_value(new, SELECT_HAS_REPLAYED, position=position):
                    return under_way() or f"{self.plan.new} had not replayed {position}"
                # Who takes himself out of the fence is seen here, before it is too late.
                return under_way() or ("" if query_value(old, IDS) == ids else "others went on to write")

            self._wait(behind)
            return ids

    def promote(self, new: psycopg.Connection) -> None:
        """Promote the replica, and see it done: what was asked for goes on without us."""
        database, old, name = self.plan.database.name, self.plan.old, self.plan.new
        fault = f"{name} was to be promoted, and has not come out of recovery"
        try:
            try:
                done = query_value(new, PROMOTE)
            except psycopg.Error as error:
                done, fault = False, f"{fault}; pg_promote ended with: {error}"
            if not done and not wait_until(self._is_promoted, timeout_seconds=self.timeout_seconds):
                raise SwitchoverUnfinished(database, old=old, fault=fault)
        except KeyboardInterrupt as error:
            fault = f"interrupted while the promotion of {name} went on"
            raise SwitchoverUnfinished(database, old=old, fault=fault) from error

    def look_behind(self, ids: str) -> None:
        """Tell of transactions that the old primary has finished behind the position that was replayed."""
        old = self.plan.old
        try:
            with self._connect(old) as connection:
                count = int(query_value(connection, IDS)) - int(ids)
        except psycopg.Error as error:
            self.report(f"look: {old} did not tell whether it has written since: {error}")
            return
        if count:
            self.report(
                f"look: {old} has finished up to {count} transactions that {self.plan.new} may lack: "
                "autovacuum's, or of who takes himself out of the fence; compare before you rewind it"
            )

    def _wait(self, in_the_way: Callable[[], str]) -> None:
        found = ""

        def is_free() -> bool:
            nonlocal found
            found = in_the_way()
            return not found

        if not wait_until(is_free, timeout_seconds=self.timeout_seconds):
            fault = f"{found}, still after {self.timeout_seconds:g} s"
            raise SwitchoverGivenUp(self.plan.database.name, fault)

    def _set_fence(self, change: str) -> None:
        # A connection for itself: another one may be what has failed.
        with self._connect(self.plan.old) as connection:
            connection.execute(change.encode())
            connection.execute(RELOAD)

    def _open(self) -> str:
        with self._connect(self.plan.old) as connection:
            return "" if query_value(connection, IN_FORCE) else f"{self.plan.old} did not become read-only"

    def _is_promoted(self) -> bool:
        try:
            with self._connect(self.plan.new) as connection:
                return not query_value(connection, IN_RECOVERY)
        except psycopg.Error:
            return False

    def _connect(self, node: str) -> AbstractContextManager[psycopg.Connection]:
        return connect_node(self.topology, self.plan.database, node, role=self.plan.superuser)


@contextmanager
def connect_node(
    topology: Topology, database: Database, node: str, *, role: str
) -> Iterator[psycopg.Connection]:
    """Connect to a node itself: a pooler's connections would not show a new setting.

    Raises:
        psycopg.OperationalError: it cannot be reached, or no longer answers; the message names database and
            node.
    """
    replica = None if node == PRIMARY_NODE else node
    url = topology.url(database, role=role, replica=replica, direct=True)
    is_open = False
    try:
        with connected(**connect_arguments(url, application_name="mesctl")) as connection:
            is_open = True
            yield connection
    except psycopg.OperationalError as error:
        if is_open and not isinstance(error, ServerUnresponsive):
            raise  # an error of a statement, or of another node
        raise psycopg.OperationalError(f"{database.name}: {node}: {error}") from error
