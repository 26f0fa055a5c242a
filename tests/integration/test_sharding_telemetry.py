"""What a process tells by OpenTelemetry is heard by its SDK. Providers are global: hence a process."""

import json
import subprocess
import sys

from sharding.topology import Topology
from tests.integration.shards_rig import EVEN, give, key_in, save

PROGRAM = """
import asyncio, json, sys
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

reader, spans = InMemoryMetricReader(), InMemorySpanExporter()
metrics.set_meter_provider(MeterProvider([reader]))
tracing = TracerProvider()
tracing.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(tracing)

from sharding.errors import BucketNotOwned
from sharding.sessions import open_sessions
from sharding.topology import Topology
from tests.integration.shards_rig import new_order

async def main(path, own, lost):
    async with open_sessions(Topology.load(path), role="mes", application_name="test") as sessions:
        for _ in range(2):
            async with sessions.read(own) as session:
                await session.get(type(new_order(own)), own)
        try:
            async with sessions.write(lost) as session:
                session.add(new_order(lost))
        except BucketNotOwned:
            pass
        told = {}
        for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    value = getattr(point, "value", None)
                    labels = ",".join(str(part) for part in dict(point.attributes).values())
                    told[f"{metric.name}({labels})"] = point.count if value is None else value
        ended = spans.get_finished_spans()
        names = [(span.name, span.attributes["shard"], span.status.is_ok) for span in ended]
        print(json.dumps({"told": told, "spans": names}))

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


async def test_units_are_counted_by_shard_with_spans_and_the_version_of_the_map(topology: Topology) -> None:
    await save(topology, EVEN)
    give(topology, EVEN, "mes_0")
    # mes_1 owns nothing, whatever the map says.
    give(topology, type(EVEN)(1, ("mes_0",) * 64), "mes_1")
    words = [sys.executable, "-c", PROGRAM, str(topology.path), str(key_in(3)), str(key_in(40))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)  # noqa: ASYNC221
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    # `readreplica` tells of the same clusters in words of its own.
    assert {name: value for name, value in said["told"].items() if name.startswith("mes_storage.")} == {
        "mes_storage.shard.units(mes_0,done)": 2,
        "mes_storage.shard.units(mes_1,failed)": 1,
        "mes_storage.shard.statements(mes_0)": 2,
        "mes_storage.shard.statements(mes_1)": 1,
        "mes_storage.shard.duration(mes_0)": 2,
        "mes_storage.shard.duration(mes_1)": 1,
        "mes_storage.shard_map.version()": 1,
    }
    assert sorted(said["spans"]) == [
        ["shard unit", "mes_0", True],
        ["shard unit", "mes_0", True],
        ["shard unit", "mes_1", False],
    ]
