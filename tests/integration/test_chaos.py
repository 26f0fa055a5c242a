"""Orders arrive while services, relays, Redis, replicas and primaries are killed, frozen and wiped."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.load.chaos import run_chaos
from tests.load.faults import VALKEY, Kind, plan_faults

TARGETS = ("mes", VALKEY, "mes_0 server")


def test_a_plan_repeats_itself_and_strikes_each_target_in_each_way() -> None:
    plan = plan_faults(TARGETS, seed=7, seconds=60, every_seconds=4)
    assert plan == plan_faults(TARGETS, seed=7, seconds=60, every_seconds=4)
    assert plan != plan_faults(TARGETS, seed=8, seconds=60, every_seconds=4)
    struck = Counter((fault.target, fault.kind) for fault in plan)
    assert struck[VALKEY, Kind.WIPE] == 2
    assert all(struck[target, kind] >= 1 for target in TARGETS for kind in (Kind.KILL, Kind.FREEZE))


def test_a_target_is_mended_before_it_is_struck_again() -> None:
    plan = plan_faults(TARGETS, seed=1, seconds=300, every_seconds=1)
    for target in TARGETS:
        own = [fault for fault in plan if fault.target == target and fault.kind is not Kind.WIPE]
        for before, after in pairwise(own):
            assert before.at_seconds + before.lasts_seconds < after.at_seconds


@pytest.mark.long
@pytest.mark.timeout(420)
def test_no_order_is_lost_or_doubled_whatever_is_broken(tmp_path: Path) -> None:
    verdict = run_chaos(tmp_path / "platform", orders=24, seed=14, seconds=14, every_seconds=2)
    assert verdict.wrong == 0, verdict.as_json()
    assert len(verdict.reconciled.accounted_for) + verdict.refused.total() == 24, verdict.as_json()
    assert verdict.struck_at_work == len(verdict.faults) >= 7


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_thousand_orders_live_through_a_day_of_chaos(seed: int, tmp_path: Path) -> None:
    verdict = run_chaos(tmp_path / "platform", orders=2000, seed=seed, seconds=360, every_seconds=10)
    assert verdict.wrong == 0, verdict.as_json()
    assert len(verdict.reconciled.accounted_for) + verdict.refused.total() == 2000, verdict.as_json()
