"""What is to be done with a prepared transaction, and with a copy of a reference table."""

from datetime import UTC, datetime

import pytest

from app.pricing.tariff import TARIFF
from ops.reference_tables import read_file
from sharding.writes.errors import ReferenceAhead
from sharding.writes.in_doubt import RecoveryAction, judge
from sharding.writes.prepared import CommitDecision, Decided, Prepared, gid_of
from sharding.writes.reference import Content, ReferenceCopy, fault_of, next_version
from tests.project import MES, PRICE_LIST

UNIT = "0123456789abcdef" * 2
CONTENT = Content("finishes", 4, "[]", "sum")


def part(gid: str, *, shard: str = "mes_0", age: float = 0.0) -> Prepared:
    at = datetime(2026, 11, 25, tzinfo=UTC)
    return Prepared(shard, gid, "mes", at, age, xid_age=1, locks=(), waiting_pids=())


def test_a_decision_is_done_whatever_the_age() -> None:
    parts = [part(gid_of(UNIT, shard), shard=shard) for shard in ("mes_0", "mes_1")]
    for decision, verdict in (
        (CommitDecision.COMMIT, RecoveryAction.COMMIT),
        (CommitDecision.ABORT, RecoveryAction.ABORT),
    ):
        decided = {UNIT: Decided(decision, "merge", ("mes_0", "mes_1"))}
        assert {each.verdict for each in judge(parts, decided, older_than_seconds=600)} == {verdict}


def test_an_undecided_unit_is_as_old_as_its_youngest_part() -> None:
    def verdicts(*ages: float) -> set[RecoveryAction]:
        parts = [
            part(gid_of(UNIT, f"mes_{number}"), shard=f"mes_{number}", age=age)
            for number, age in enumerate(ages)
        ]
        return {each.verdict for each in judge(parts, {}, older_than_seconds=600)}

    assert verdicts(700, 599) == {RecoveryAction.WAIT}
    assert verdicts(700, 600) == {RecoveryAction.PRESUME_ABORT}


@pytest.mark.parametrize(
    "gid",
    [
        "bank:1",
        "mes-storage",
        f"mes-storage:{UNIT}",
        f"mes-storage:{UNIT}:mes_1",
        f"mes-storage:{UNIT[1:]}:mes_0",
    ],
)
def test_what_is_not_ours_is_never_judged(gid: str) -> None:
    decided = {UNIT: Decided(CommitDecision.COMMIT, "", ("mes_0",))}
    [found] = judge([part(gid, age=10_000)], decided, older_than_seconds=0)
    assert found.verdict is RecoveryAction.FOREIGN


def copy(version: int, checksum: str = "sum", rows: int = 2) -> ReferenceCopy:
    return ReferenceCopy("mes_0", "finishes", version, checksum, checksum, rows)


def test_a_copy_is_behind_or_differs_or_is_as_published() -> None:
    assert fault_of(copy(4), CONTENT) is None
    assert "version 3, and 4 is published" in (fault_of(copy(3), CONTENT) or "")
    assert "differ" in (fault_of(copy(4, "other"), CONTENT) or "")
    assert fault_of(copy(0, "", 0), None) is None
    assert fault_of(copy(0, "", 1), None) is not None
    with pytest.raises(ReferenceAhead, match=r"mes_0 has version 5 .* knows 4 at most"):
        fault_of(copy(5), CONTENT)


def test_the_next_version_is_beyond_all_that_are_known() -> None:
    assert next_version(None, []) == 1
    assert next_version(CONTENT, [copy(3)]) == 5
    assert next_version(CONTENT, [copy(7), copy(2)]) == 8


def test_the_shipped_price_list_is_the_tariff_that_prices() -> None:
    rows = read_file(PRICE_LIST, MES)
    assert {row["finish"]: row["eur_per_cm2"] for row in rows["finishes"]} == TARIFF.finish_eur_per_cm2
    metals = {name: vars(metal) for name, metal in TARIFF.metals.items()}
    assert {
        row["material"]: {k: v for k, v in row.items() if k != "material"} for row in rows["materials"]
    } == metals
    [standard] = rows["tariffs"]
    for name, value in standard.items():
        if name != "tariff":
            assert value == getattr(TARIFF, name)
