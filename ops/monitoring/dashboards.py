"""Dashboards as values, and Grafana's JSON of them, by its own models."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from grafana_foundation_sdk.builders import common, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from ops.project.project import Project

Kind = Literal["lines", "number", "table"]
Builder = timeseries.Panel | stat.Panel | table.Panel

SOURCE = "datasource"
"""The variable by which a reader chooses a Prometheus."""

WIDTHS: dict[Kind, int] = {"lines": 12, "number": 6, "table": 24}
"""Of the 24 columns that Grafana has."""

HEIGHTS: dict[Kind, int] = {"lines": 8, "number": 4, "table": 9}


@dataclass(frozen=True, slots=True)
class DashboardPanel:
    """A panel: queries, each with the text of its legend; `unit` is Grafana's name of one."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Kind = "lines"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard; `name` is that of its file and its address."""

    name: str
    title: str
    panels: tuple[DashboardPanel, ...]

    @property
    def queries(self) -> tuple[str, ...]:
        """Every query of it."""
        return tuple(query for panel in self.panels for query, _ in panel.queries)


def lines(title: str, *queries: tuple[str, str], unit: str = "short") -> DashboardPanel:
    """Return a panel of lines over time."""
    return DashboardPanel(title, queries, unit)


def number(title: str, query: str, *, unit: str = "short") -> DashboardPanel:
    """Return a panel of one number."""
    return DashboardPanel(title, ((query, ""),), unit, "number")


def rows(title: str, query: str) -> DashboardPanel:
    """Return a panel of a table, one row for each series."""
    return DashboardPanel(title, ((query, ""),), kind="table")


TROUBLE = Dashboard(
    "trouble-now",
    "Trouble now",
    (
        number("Pages", 'count(ALERTS{alertstate="firing",severity="page"}) or vector(0)'),
        number("Tickets", 'count(ALERTS{alertstate="firing",severity="ticket"}) or vector(0)'),
        number("Processes that do not answer", "count(up == 0) or vector(0)"),
        number("Nodes that do not answer", "count(mes_storage_up == 0) or vector(0)"),
        rows("What fires", 'ALERTS{alertstate="firing",severity!="none"}'),
        lines("Error budgets: how fast they burn, 1 h", ("slo:errors:1h", "{{slo}}"), unit="percentunit"),
        lines("Alerts", ('count by (alertname) (ALERTS{alertstate="firing"})', "{{alertname}}")),
    ),
)

STORAGE = Dashboard(
    "mes-storage",
    "MES storage",
    (
        lines("Rows of the largest partitions", ("topk(10, mes_storage_partition_rows)", "{{partition}}")),
        lines(
            "Bytes of the largest partitions",
            ("topk(10, mes_storage_partition_bytes)", "{{partition}}"),
            unit="bytes",
        ),
        lines("Months ahead", ("mes_storage_partitions_months_ahead", "{{database}} {{table}}")),
        lines(
            "Detaches that were cut off",
            ("mes_storage_partitions_pending_detaches", "{{database}} {{table}}"),
        ),
        lines(
            "Rows that wait for the archive",
            ("mes_storage_archive_waiting_rows", "{{database}} {{table}}"),
        ),
        lines(
            "Units in doubt, age of the oldest",
            ("mes_storage_in_doubt_oldest_seconds", "{{database}}"),
            unit="s",
        ),
        lines("Dead rows", ("topk(10, mes_storage_dead_rows)", "{{database}} {{table}}")),
        lines(
            "Last vacuum",
            ("topk(10, mes_storage_autovacuum_age_seconds)", "{{database}} {{table}}"),
            unit="s",
        ),
    ),
)

SHARDS = Dashboard(
    "shards",
    "Shards",
    (
        lines("Rows", ("mes_storage_shard_rows", "{{shard}}")),
        lines("Bytes", ("mes_storage_shard_bytes", "{{shard}}"), unit="bytes"),
        lines("Growth a day", ("86400 * mes_storage:shard_rows:deriv1d", "{{shard}}")),
        lines("Largest against average", ("mes_storage:shard_skew:ratio", "{{tree}}")),
        lines(
            "Units a second",
            ("sum by (shard, outcome) (rate(mes_storage_shard_units_total[5m]))", "{{shard}} {{outcome}}"),
        ),
        lines(
            "Duration of units, 95 %",
            (
                "histogram_quantile(0.95, sum by (shard, le)"
                " (rate(mes_storage_shard_duration_seconds_bucket[5m])))",
                "{{shard}}",
            ),
            unit="s",
        ),
        lines("Version of the map", ("mes_storage_shard_map_version", "{{job}} {{instance}}")),
        lines("Node numbers leased", ("mes_storage_id_leases / mes_storage_id_leases_max", "{{id_space}}")),
    ),
)

REPLICAS = Dashboard(
    "replicas",
    "Replicas",
    (
        lines("Nodes that answer", ("mes_storage_up", "{{database}} {{node}} {{role}}")),
        lines("Lag", ("mes_storage_replica_lag_seconds", "{{database}} {{node}}"), unit="s"),
        lines("Lag in WAL", ("mes_storage_replica_lag_bytes", "{{database}} {{node}}"), unit="bytes"),
        lines("WAL that slots hold", ("mes_storage_slot_wal_bytes", "{{database}} {{slot}}"), unit="bytes"),
        lines(
            "Reads by node and reason",
            (
                "sum by (cluster, node, reason) (rate(readreplica_reads_total[5m]))",
                "{{cluster}} {{node}} {{reason}}",
            ),
        ),
        lines(
            "Lag as services see it", ("readreplica_lag_seconds", "{{job}} {{cluster}} {{node}}"), unit="s"
        ),
        lines(
            "Replicas that were ejected",
            ("sum by (cluster, node) (increase(readreplica_ejections_total[1h]))", "{{cluster}} {{node}}"),
        ),
        lines(
            "Waits for replay, 95 %",
            (
                "histogram_quantile(0.95, sum by (cluster, le)"
                " (rate(readreplica_replay_wait_seconds_bucket[5m])))",
                "{{cluster}}",
            ),
            unit="s",
        ),
    ),
)

DATABASES = Dashboard(
    "databases",
    "Databases",
    (
        lines(
            "Connections used", ("mes_storage:connections:ratio", "{{database}} {{node}}"), unit="percentunit"
        ),
        lines("Disk free", ("mes_storage:disk_free:ratio", "{{database}} {{node}}"), unit="percentunit"),
        lines(
            "Oldest transaction", ("mes_storage_transaction_age_seconds", "{{database}} {{node}}"), unit="s"
        ),
        lines("Sessions that wait for locks", ("mes_storage_locks_waiting", "{{database}} {{node}}")),
        lines("Size", ("mes_storage_database_bytes", "{{database}}"), unit="bytes"),
        lines("Growth a day", ("86400 * mes_storage:database_bytes:deriv1d", "{{database}}"), unit="bytes"),
        lines("Transactions a second", ("rate(mes_storage_transactions_total[5m])", "{{database}}")),
        lines("Transactions since the last freeze", ("mes_storage_xid_age", "{{database}}")),
        lines(
            "Top statements, share of a core",
            ("topk(10, rate(mes_storage_statement_seconds_total[5m]))", "{{database}} {{queryid}}"),
            unit="percentunit",
        ),
        lines(
            "What the exporter could not read",
            ("increase(mes_storage_exporter_errors_total[10m])", "{{database}}"),
        ),
    ),
)

_DOOR = "envoy_http_conn_manager_prefix"

GATEWAY = Dashboard(
    "gateway",
    "Gateway",
    (
        lines(
            "Requests a second",
            (f"sum by ({_DOOR}) (rate(envoy_http_downstream_rq_xx[5m]))", f"{{{{{_DOOR}}}}}"),
            unit="reqps",
        ),
        lines(
            "Answers by class",
            (
                f"sum by ({_DOOR}, envoy_response_code_class) (rate(envoy_http_downstream_rq_xx[5m]))",
                f"{{{{{_DOOR}}}}} {{{{envoy_response_code_class}}}}xx",
            ),
            unit="reqps",
        ),
        lines(
            "Share of failures",
            (
                f'sum by ({_DOOR}) (rate(envoy_http_downstream_rq_xx{{envoy_response_code_class="5"}}[5m]))'
                f" / sum by ({_DOOR}) (rate(envoy_http_downstream_rq_xx[5m]))",
                f"{{{{{_DOOR}}}}}",
            ),
            unit="percentunit",
        ),
        lines(
            "Answer time, p99",
            (
                f"histogram_quantile(0.99, sum by ({_DOOR}, le)"
                " (rate(envoy_http_downstream_rq_time_bucket[5m])))",
                f"{{{{{_DOOR}}}}}",
            ),
            unit="ms",
        ),
        lines("Processes that are ready", ("envoy_cluster_membership_healthy", "{{envoy_cluster_name}}")),
        number("Days until a certificate ends", "min(envoy_server_days_until_first_cert_expiring)"),
    ),
)

PLATFORM_DASHBOARDS = (TROUBLE, STORAGE, SHARDS, REPLICAS, DATABASES, GATEWAY)


def dashboards_for(project: "Project") -> tuple[Dashboard, ...]:
    """Return the dashboards of the platform, and those of a project.

    Raises:
        ReferenceBroken: `monitoring.dashboards` of the project file leads nowhere, or to no tuple.
    """
    reference = project.file.monitoring.dashboards
    own: tuple[Dashboard, ...] = project.typed("monitoring.dashboards", reference, tuple, ())
    return (*PLATFORM_DASHBOARDS, *own)


def dashboard_files(dashboards: Iterable[Dashboard]) -> dict[str, str]:
    """Return Grafana's JSON of each dashboard, by the name of its file."""
    return {f"dashboards/{each.name}.json": grafana_json(each) for each in dashboards}


def grafana_json(dashboard: Dashboard) -> str:
    """Return the JSON of a dashboard, the same text each time."""
    built = (
        grafana.Dashboard(dashboard.title)
        .uid(f"mes-storage-{dashboard.name}")
        .tags(["mes-storage"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("utc")
        .with_variable(grafana.DatasourceVariable(SOURCE).label("Data source").type("prometheus"))
    )
    for panel in dashboard.panels:
        built = built.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _panel(panel: DashboardPanel) -> Builder:
    builder = _empty(panel.kind)
    builder.title(panel.title).unit(panel.unit).datasource(
        DataSourceRef(type_val="prometheus", uid=f"${{{SOURCE}}}")
    ).span(WIDTHS[panel.kind]).height(HEIGHTS[panel.kind])
    for position, (query, legend) in enumerate(panel.queries):
        target = Dataquery().ref_id(chr(ord("A") + position)).expr(query).legend_format(legend)
        if panel.kind != "lines":
            target = target.instant()
        if panel.kind == "table":
            target = target.format(PromQueryFormat.TABLE)
        builder.with_target(target)
    return builder


def _empty(kind: Kind) -> Builder:
    if kind == "number":
        return stat.Panel()
    if kind == "table":
        return table.Panel()
    return timeseries.Panel().legend(common.VizLegendOptions().show_legend(True))
