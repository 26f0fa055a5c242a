"""What a cluster tells OpenTelemetry, heard by its SDK."""

import json
import subprocess
import sys

# In a process of its own: the SDK can be installed once, and the suite's other tests may want another.
SCRIPT = """
import json
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
from readreplica.metrics import ClusterMetrics, Reason, hide_lags, show_lags

def lags():
    return [("main", "replica", 0.25, 8), ("main", "unknown", None, None)]

show_lags(lags)
told = ClusterMetrics("main")
told.read("replica", Reason.WAITED)
told.read("replica", Reason.WAITED)
told.read("primary", Reason.REFUSED)
told.waited(0.01)
told.token("from_the_future", 1.5)
told.token("current", 0.5)
told.ejected("replica", "lag")
told.failed_over("replica")
found = {}
for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
    for metric in scope.metrics:
        points = metric.data.data_points
        values = [getattr(point, "value", getattr(point, "count", 0)) for point in points]
        found[metric.name] = [[dict(p.attributes), v] for p, v in zip(points, values)]
hide_lags(lags)
print(json.dumps(found))
"""


def test_reads_waits_tokens_lag_ejections_and_failovers_are_told() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    of_main = {"cluster": "main"}
    on_replica = of_main | {"node": "replica"}
    assert told == {
        "readreplica.reads": [
            [on_replica | {"reason": "waited"}, 2],
            [of_main | {"node": "primary", "reason": "refused"}, 1],
        ],
        "readreplica.replay.wait": [[of_main, 1]],
        "readreplica.token.age": [[of_main, 2]],
        "readreplica.token.verdicts": [[of_main | {"verdict": "from_the_future"}, 1]],
        "readreplica.ejections": [[on_replica | {"fault": "lag"}, 1]],
        "readreplica.failovers": [[on_replica, 1]],
        "readreplica.lag.seconds": [[on_replica, 0.25]],
        "readreplica.lag.bytes": [[on_replica, 8]],
    }
