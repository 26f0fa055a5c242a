"""What every platform has to be watched: databases, replicas, partitions, shards, and what watches them."""

from typing import TYPE_CHECKING

from ops.monitoring.model import WINDOW, Alert, Inhibition, Metric, RecordingRule, Rules, Slo

if TYPE_CHECKING:
    from ops.project.project import Project

_OF_DATABASE = ("database",)
_OF_NODE = ("database", "node")
_OF_TABLE = ("database", "table")

SOON_SECONDS = 45
"""How long something may be down: a restart takes less, and its alert comes within two minutes."""

LEAST_SAMPLES = 50
"""Of an objective that counts samples: a Prometheus that has just begun has seen too little."""

_OF_DOOR = ("envoy_http_conn_manager_prefix",)
GATEWAY_METRICS = {
    "envoy_http_downstream_rq_xx": Metric("counter", (*_OF_DOOR, "envoy_response_code_class")),
    "envoy_http_downstream_rq_time": Metric("histogram", _OF_DOOR, "In milliseconds."),
    "envoy_listener_manager_lds_update_rejected": Metric("counter"),
    "envoy_cluster_manager_cds_update_rejected": Metric("counter"),
    "envoy_server_days_until_first_cert_expiring": Metric("gauge"),
    "envoy_cluster_membership_healthy": Metric("gauge", ("envoy_cluster_name",)),
}
"""Of Envoy, by the name of the door where it has one."""

METRICS = {
    **GATEWAY_METRICS,
    "mes_storage_up": Metric("gauge", ("database", "node", "role")),
    "mes_storage_exporter_last_success_timestamp_seconds": Metric("gauge", _OF_DATABASE),
    "mes_storage_exporter_errors_total": Metric("counter", _OF_DATABASE),
    "mes_storage_transaction_age_seconds": Metric("gauge", _OF_NODE),
    "mes_storage_transactions_total": Metric("counter", _OF_DATABASE),
    "mes_storage_locks_waiting": Metric("gauge", _OF_NODE),
    "mes_storage_connections": Metric("gauge", _OF_NODE),
    "mes_storage_connections_max": Metric("gauge", _OF_NODE),
    "mes_storage_slot_wal_bytes": Metric("gauge", ("database", "slot")),
    "mes_storage_replica_lag_seconds": Metric("gauge", _OF_NODE),
    "mes_storage_replica_lag_bytes": Metric("gauge", _OF_NODE),
    "mes_storage_database_bytes": Metric("gauge", _OF_DATABASE),
    "mes_storage_disk_free_bytes": Metric("gauge", _OF_NODE),
    "mes_storage_disk_bytes": Metric("gauge", _OF_NODE),
    "mes_storage_rows": Metric("gauge", _OF_DATABASE),
    "mes_storage_dead_rows": Metric("gauge", _OF_TABLE),
    "mes_storage_live_rows": Metric("gauge", _OF_TABLE),
    "mes_storage_autovacuum_age_seconds": Metric("gauge", _OF_TABLE),
    "mes_storage_xid_age": Metric("gauge", _OF_DATABASE),
    "mes_storage_partition_rows": Metric("gauge", ("database", "table", "partition")),
    "mes_storage_partition_bytes": Metric("gauge", ("database", "table", "partition")),
    "mes_storage_partitions_months_ahead": Metric("gauge", _OF_TABLE),
    "mes_storage_partitions_pending_detaches": Metric("gauge", _OF_TABLE),
    "mes_storage_shard_rows": Metric("gauge", ("tree", "shard")),
    "mes_storage_shard_bytes": Metric("gauge", ("tree", "shard")),
    "mes_storage_in_doubt_units": Metric("gauge", _OF_DATABASE),
    "mes_storage_in_doubt_oldest_seconds": Metric("gauge", _OF_DATABASE),
    "mes_storage_id_leases": Metric("gauge", ("id_space",)),
    "mes_storage_id_leases_max": Metric("gauge", ("id_space",)),
    "mes_storage_statement_seconds_total": Metric("counter", ("database", "queryid")),
    "mes_storage_archive_waiting_rows": Metric("gauge", _OF_TABLE),
    # Of the libraries, in the processes that use them.
    "mes_storage_shard_units_total": Metric("counter", ("shard", "outcome")),
    "mes_storage_shard_statements_total": Metric("counter", ("shard",)),
    "mes_storage_shard_duration_seconds": Metric("histogram", ("shard",)),
    "mes_storage_shard_map_version": Metric("gauge"),
    "readreplica_reads_total": Metric("counter", ("cluster", "node", "reason")),
    "readreplica_replay_wait_seconds": Metric("histogram", ("cluster",)),
    "readreplica_token_age_seconds": Metric("histogram", ("cluster",)),
    "readreplica_token_verdicts_total": Metric("counter", ("cluster", "verdict")),
    "readreplica_ejections_total": Metric("counter", ("cluster", "node", "fault")),
    "readreplica_failovers_total": Metric("counter", ("cluster", "node")),
    "readreplica_lag_seconds": Metric("gauge", ("cluster", "node")),
    "readreplica_lag_bytes": Metric("gauge", ("cluster", "node")),
}

RECORDING = (
    RecordingRule(
        "mes_storage:connections:ratio",
        "max by (database, node) (mes_storage_connections / mes_storage_connections_max)",
    ),
    RecordingRule(
        "mes_storage:disk_free:ratio",
        "min by (database, node) (mes_storage_disk_free_bytes / mes_storage_disk_bytes)",
    ),
    # A replica that is down has no lag, and nothing is read from it.
    RecordingRule("mes_storage:replica_fresh:bool", "mes_storage_replica_lag_seconds <= bool 10"),
    RecordingRule(
        "mes_storage:shard_skew:ratio",
        "max by (tree) (mes_storage_shard_rows) / avg by (tree) (mes_storage_shard_rows)",
    ),
    # What a forecast goes by: growth over a day, and when the disk is full if it goes on.
    RecordingRule("mes_storage:database_bytes:deriv1d", "deriv(mes_storage_database_bytes[1d])"),
    RecordingRule("mes_storage:shard_rows:deriv1d", "deriv(mes_storage_shard_rows[1d])"),
)

_WATCHING = (
    Alert(
        "Watchdog",
        "vector(1)",
        0,
        "none",
        "Always fires: where it does not arrive, the way of the alerts is broken",
        "alerts-monitoring.md#watchdog",
        "mesctl status",
    ),
    Alert(
        "ProcessDown",
        "up == 0",
        SOON_SECONDS,
        "page",
        "{{ $labels.job }} at {{ $labels.instance }} does not answer on its admin port",
        "alerts-monitoring.md#processdown",
        "mesctl status",
    ),
    Alert(
        "DoorFails",
        "sum by (envoy_http_conn_manager_prefix)"
        ' (rate(envoy_http_downstream_rq_xx{envoy_response_code_class="5"}[5m]))'
        " / sum by (envoy_http_conn_manager_prefix) (rate(envoy_http_downstream_rq_xx[5m])) > 0.05",
        120,
        "page",
        "{{ $value | humanizePercentage }} of the answers at the door"
        " {{ $labels.envoy_http_conn_manager_prefix }} are failures",
        "alerts-gateway.md#doorfails",
        "mesctl problems",
    ),
    Alert(
        "GatewayRefusesFiles",
        "increase(envoy_listener_manager_lds_update_rejected[10m])"
        " + increase(envoy_cluster_manager_cds_update_rejected[10m]) > 0",
        0,
        "ticket",
        "Envoy has refused its new files, and goes on with those of before",
        "alerts-gateway.md#gatewayrefusesfiles",
        "mesctl gateway check",
    ),
    Alert(
        "CertificateEndsSoon",
        "envoy_server_days_until_first_cert_expiring < 21",
        3600,
        "ticket",
        "a certificate of the gateway ends in {{ $value }} days",
        "alerts-gateway.md#certificateendssoon",
        "mesctl gateway check",
    ),
    Alert(
        "ServiceUnreachable",
        "envoy_cluster_membership_healthy < 1",
        60,
        "page",
        "the gateway finds no process of {{ $labels.envoy_cluster_name }} that is ready",
        "alerts-gateway.md#serviceunreachable",
        "mesctl status",
    ),
    Alert(
        "ExporterSilent",
        "absent(mes_storage_up)",
        120,
        "page",
        "No database is watched: the exporter serves nothing",
        "alerts-monitoring.md#exportersilent",
        "mesctl monitoring exporter --once",
    ),
    Alert(
        "DatabaseNotRead",
        "time() - mes_storage_exporter_last_success_timestamp_seconds > 300"
        # One that was never read in full has no such time.
        " or (mes_storage_exporter_errors_total > 20"
        " unless on (database) mes_storage_exporter_last_success_timestamp_seconds)",
        60,
        "ticket",
        "{{ $labels.database }} could not be read in full for 5 minutes",
        "alerts-monitoring.md#databasenotread",
        "mesctl monitoring exporter --once",
    ),
)

_DATABASES = (
    Alert(
        "PrimaryDown",
        # After a failover the old one is away for long, and no page.
        'mes_storage_up{role="primary"} == 0 unless on (database) mes_storage_up{role="primary"} == 1',
        SOON_SECONDS,
        "page",
        "The primary of {{ $labels.database }} does not answer: nothing is written there",
        "alerts-databases.md#primarydown",
        "mesctl replicas list",
    ),
    Alert(
        "ReplicaDown",
        'mes_storage_up{role="replica"} == 0',
        SOON_SECONDS,
        "ticket",
        "Replica {{ $labels.node }} of {{ $labels.database }} does not answer: reads go elsewhere",
        "alerts-databases.md#replicadown",
        "mesctl replicas list",
    ),
    Alert(
        "ReplicaLags",
        "mes_storage_replica_lag_seconds > 30",
        120,
        "ticket",
        "Replica {{ $labels.node }} of {{ $labels.database }} is {{ $value | humanizeDuration }} behind",
        "alerts-databases.md#replicalags",
        "mesctl replicas list",
    ),
    Alert(
        "PrimaryChanged",
        # The series begins with the first of them, at 1: no increase. It is news if the process was watched.
        "increase(readreplica_failovers_total[10m]) > 0"
        " or (readreplica_failovers_total > 0 unless readreplica_failovers_total offset 10m"
        " and on (job, instance) up offset 10m)",
        0,
        "ticket",
        "{{ $labels.cluster }} is written at {{ $labels.node }} now",
        "alerts-databases.md#primarychanged",
        "mesctl replicas list",
    ),
    Alert(
        "SlotHoldsWal",
        "mes_storage_slot_wal_bytes > 10e9",
        300,
        "ticket",
        "Slot {{ $labels.slot }} of {{ $labels.database }} holds {{ $value | humanize1024 }}B of WAL",
        "alerts-databases.md#slotholdswal",
        "mesctl replicas list",
    ),
    Alert(
        "TransactionOld",
        "mes_storage_transaction_age_seconds > 900",
        60,
        "ticket",
        "A transaction of {{ $labels.database }} is {{ $value | humanizeDuration }} old: vacuum waits for it",
        "alerts-databases.md#transactionold",
        "mesctl problems",
    ),
    Alert(
        "LocksWaited",
        "mes_storage_locks_waiting > 10",
        120,
        "ticket",
        "{{ $value }} sessions of {{ $labels.database }} wait for locks",
        "alerts-databases.md#lockswaited",
        "mesctl problems",
    ),
    Alert(
        "ConnectionsUsedUp",
        "mes_storage:connections:ratio > 0.9",
        120,
        "page",
        "{{ $labels.database }}, {{ $labels.node }}: {{ $value | humanizePercentage }} of connections used",
        "alerts-databases.md#connectionsusedup",
        "mesctl pgbouncer check",
    ),
    Alert(
        "DiskNearlyFull",
        "mes_storage:disk_free:ratio < 0.1",
        120,
        "page",
        "{{ $labels.database }}, {{ $labels.node }}: {{ $value | humanizePercentage }} of the disk is free",
        "alerts-databases.md#disknearlyfull",
        "mesctl forecast",
    ),
    Alert(
        "DiskFillsUp",
        "mes_storage:disk_free:ratio < 0.4"
        " and on (database, node) predict_linear(mes_storage_disk_free_bytes[6h], 86400) < 0",
        3600,
        "ticket",
        "{{ $labels.database }}, {{ $labels.node }}: the disk is full in a day if it goes on like this",
        "alerts-databases.md#diskfillsup",
        "mesctl forecast",
    ),
    Alert(
        "TransactionIdsOld",
        "mes_storage_xid_age > 5e8",
        600,
        "ticket",
        "{{ $labels.database }} has not been frozen for {{ $value | humanize }} transactions",
        "alerts-databases.md#transactionidsold",
        "mesctl problems",
    ),
    Alert(
        "VacuumBehind",
        "mes_storage_dead_rows > 1e5 and mes_storage_dead_rows > 0.3 * mes_storage_live_rows",
        3600,
        "ticket",
        "{{ $labels.table }} of {{ $labels.database }} has {{ $value | humanize }} dead rows",
        "alerts-databases.md#vacuumbehind",
        "mesctl problems",
    ),
    Alert(
        "UnitInDoubt",
        "mes_storage_in_doubt_oldest_seconds > 300",
        60,
        "page",
        "A prepared transaction of {{ $labels.database }} holds locks for {{ $value | humanizeDuration }}",
        "alerts-databases.md#unitindoubt",
        "mesctl shards in-doubt list",
    ),
)

_STORAGE = (
    Alert(
        "PartitionMissing",
        "mes_storage_partitions_months_ahead < 0",
        60,
        "page",
        "{{ $labels.table }} of {{ $labels.database }} has no partition for this month",
        "alerts-storage.md#partitionmissing",
        "mesctl partitions apply",
    ),
    Alert(
        "MonthsAheadFew",
        "mes_storage_partitions_months_ahead < 2",
        3600,
        "ticket",
        "{{ $labels.table }} of {{ $labels.database }} has {{ $value }} months ahead",
        "alerts-storage.md#monthsaheadfew",
        "mesctl partitions plan",
    ),
    Alert(
        "DetachPending",
        "mes_storage_partitions_pending_detaches > 0",
        3600,
        "ticket",
        "A detach of {{ $labels.table }} of {{ $labels.database }} was cut off: its rows are in no query",
        "alerts-storage.md#detachpending",
        "mesctl partitions check",
    ),
    Alert(
        "ArchiveBehind",
        "min_over_time(mes_storage_archive_waiting_rows[6h]) > 1e5",
        3600,
        "ticket",
        "{{ $value | humanize }} rows of {{ $labels.table }} of {{ $labels.database }} wait for the archive",
        "alerts-storage.md#archivebehind",
        "mesctl archive status",
    ),
    Alert(
        "ShardSkewed",
        "mes_storage:shard_skew:ratio > 2 and max by (tree) (mes_storage_shard_rows) > 1e6",
        3600,
        "ticket",
        "The largest shard of {{ $labels.tree }} has {{ $value | humanize }} times the average",
        "alerts-storage.md#shardskewed",
        "mesctl shards list",
    ),
    Alert(
        "ShardMapDiffers",
        "max(mes_storage_shard_map_version) - min(mes_storage_shard_map_version) > 0",
        300,
        "page",
        "Processes route by different versions of the shard map",
        "alerts-storage.md#shardmapdiffers",
        "mesctl shards list",
    ),
    Alert(
        "IdSpaceNearlyFull",
        "mes_storage_id_leases / mes_storage_id_leases_max > 0.8",
        300,
        "ticket",
        "{{ $value | humanizePercentage }} of the node numbers of {{ $labels.id_space }} are leased",
        "alerts-storage.md#idspacenearlyfull",
        "mesctl forecast",
    ),
)

SLOS = (
    Slo(
        "list_freshness",
        0.99,
        f"sum(sum_over_time(mes_storage:replica_fresh:bool[{WINDOW}]))",
        f"sum(count_over_time(mes_storage:replica_fresh:bool[{WINDOW}]))",
        "Lists are read from replicas that are more than 10 s behind",
        "alerts-objectives.md#listfreshness",
        "mesctl replicas list",
        least_total=LEAST_SAMPLES,
    ),
)

INHIBITIONS = (
    # A primary that is down explains all that its database cannot do.
    Inhibition(
        ('alertname="PrimaryDown"',),
        ('alertname=~"DatabaseNotRead|ReplicaLags"',),
        ("database",),
    ),
    Inhibition(('alertname="PartitionMissing"',), ('alertname="MonthsAheadFew"',), ("database", "table")),
    Inhibition(('alertname="DiskNearlyFull"',), ('alertname="DiskFillsUp"',), ("database", "node")),
    Inhibition(('burn="fast"',), ('burn=~"steady|slow"',), ("slo",)),
    Inhibition(('burn="steady"',), ('burn="slow"',), ("slo",)),
)

PLATFORM = Rules(
    recording=RECORDING,
    alerts=(*_WATCHING, *_DATABASES, *_STORAGE),
    slos=SLOS,
    inhibitions=INHIBITIONS,
    metrics=METRICS,
)


def rules_for(project: "Project") -> Rules:
    """Return the rules of the platform and those of a project.

    Raises:
        ReferenceBroken: `monitoring.alerts` of the project file leads nowhere, or to no `Rules`.
    """
    return PLATFORM + project.typed("monitoring.alerts", project.file.monitoring.alerts, Rules, Rules())
