"""`mesctl shards` on real databases."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ops import cli
from sharding.shard_map import bucket_of
from sharding.topology import Topology
from tests.integration.audit_rig import SHARDS, Clerk

Mesctl = Callable[..., int]


@pytest.fixture
def mesctl(topology_path: Path) -> Mesctl:
    return lambda *words: cli.run(["--topology", str(topology_path), *words])


@pytest.fixture
def order_ids(topology: Topology) -> list[int]:
    clerk = Clerk(topology)
    clerk.shard_map()
    return clerk.orders(30)


def test_the_list_has_every_shard_with_its_buckets_and_orders(
    mesctl: Mesctl, order_ids: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert mesctl("shards", "list", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["map_version"], told["buckets"]) == (1, 64)
    rows = {row["shard"]: (row["buckets"], row["live_rows"], row["exact"]) for row in told["shards"]}
    for shard in SHARDS.shards:
        own = [order_id for order_id in order_ids if SHARDS.shard_of(order_id) == shard]
        assert rows[shard] == (32, len(own), True)


def test_the_list_for_people_names_the_map(
    mesctl: Mesctl, order_ids: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert mesctl("shards", "list") == 0
    said = capsys.readouterr().out
    assert "mes_0" in said
    assert said.endswith("tree mes, map version 1, 64 buckets\n")


def test_an_order_is_located_by_its_id_alone(
    mesctl: Mesctl, order_ids: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    order_id = order_ids[0]
    assert mesctl("shards", "locate", str(order_id)) == 0
    place = f"bucket {bucket_of(order_id, 64)} on {SHARDS.shard_of(order_id)}, archived in 2026-03"
    assert capsys.readouterr().out == f"key {order_id} of mes: {place}\n"


def test_without_a_map_there_is_one_clear_line(mesctl: Mesctl, capsys: pytest.CaptureFixture[str]) -> None:
    assert mesctl("shards", "list") == 1
    assert "shard map" in capsys.readouterr().err
