"""Policies declared with models: what is added to the metadata, and what is refused in one line."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, DateTime, Index, MetaData, Table, Text, text

from partitions import (
    ArchivePolicy,
    Child,
    DeclaredIndex,
    Link,
    ListPartitions,
    MonthlyRange,
    Retention,
    declare_partitions,
)
from partitions.declare import POLICIES
from partitions.policy_errors import PolicyError
from partitions.range_key import KeyType

MOMENT = DateTime(timezone=True)
YEAR = Retention(months=12)


def column(name: str, kind: Any = BigInteger, *, key: bool = False) -> Column[Any]:
    return Column(name, kind, primary_key=key, autoincrement=False)


def payments(metadata: MetaData, name: str = "payments", **options: Any) -> Table:
    state = column("state", Text, key="archive" not in name)
    made = column("made_at", MOMENT, key="archive" in name)
    return Table(name, metadata, column("payment_id", key=True), state, made, schema="pay", **options)


def events(metadata: MetaData, name: str, *more: Column[Any]) -> Table:
    columns = (column("payment_id", key=True), column("event", key=True))
    return Table(name, metadata, *columns, *more, schema="pay")


def groups_of(table: Table, **options: Any) -> ListPartitions:
    groups = {"payments_open": {"open"}, "payments_done": {"done"}}
    return ListPartitions(table, key=table.c.state, groups=groups, row_id=table.c.payment_id, **options)


def test_partitions_get_their_columns_indexes_and_key() -> None:
    metadata = MetaData()
    table = payments(metadata)
    by_column = Index(
        "open_idx", table.c.made_at.desc(), postgresql_where=table.c.state == "open", unique=True
    )
    by_name = Index("done_idx", "made_at", postgresql_where=text("state = 'done'"))
    policy = groups_of(
        table,
        indexes={
            "payments_open": [by_column],
            "payments_done": [by_name],
            "other": {"x": DeclaredIndex("(a)")},
        },
    )
    assert policy.indexes == {
        "pay.payments_open": {"open_idx": DeclaredIndex("(made_at DESC) WHERE state = 'open'", unique=True)},
        "pay.payments_done": {"done_idx": DeclaredIndex("(made_at) WHERE state = 'done'")},
        "pay.other": {"x": DeclaredIndex("(a)")},
    }
    assert table.indexes == set()  # they are the partitions' own
    for _ in range(2):
        declare_partitions(metadata, [policy])
    assert sorted(metadata.tables) == ["pay.payments", "pay.payments_done", "pay.payments_open"]
    assert table.dialect_options["postgresql"]["partition_by"] == "LIST (state)"
    opened = metadata.tables["pay.payments_open"]
    assert (opened.info["partition_of"], opened.primary_key.name) == ("pay.payments", "payments_open_pkey")
    assert opened.dialect_options["postgresql"]["partition_by"] is None
    [index] = opened.indexes
    assert (index.name, index.unique, index.table) == ("open_idx", True, opened)
    assert metadata.info[POLICIES] == (policy,)


def test_type_of_the_key_is_the_models() -> None:
    archive = payments(MetaData(), "payments_archive")
    assert MonthlyRange(archive, key=archive.c.made_at).key_type is KeyType.TIMESTAMPTZ
    assert MonthlyRange(archive, key="made_at").partition_by == "RANGE (made_at)"
    policy = MonthlyRange(archive, key="payment_id", key_at=lambda instant: int(instant.timestamp()))
    assert policy.key_type is KeyType.INTEGER


def archive_of(child: Table, archived: Table, retention: Retention | None = YEAR, **options: Any) -> None:
    """Declare an archive with a child, and its months."""
    metadata = child.metadata
    live, archive = payments(metadata), payments(metadata, "payments_archive")
    months = [MonthlyRange(archive, key=archive.c.made_at, retention=retention)]
    if "made_at" in archived.columns:
        months.append(MonthlyRange(archived, key="made_at", retention=options.pop("kept", retention)))
    policy = ArchivePolicy(
        live=live,
        archive=archive,
        row_id=live.c.payment_id,
        range_key=live.c.made_at,
        finished_at=live.c.made_at,
        grace=timedelta(days=1),
        children=[Child(child, archive=archived, key="payment_id", **options)],
    )
    declare_partitions(metadata, months, [policy])


def with_own_time(filled: bool) -> Callable[[MetaData], None]:
    def declare(metadata: MetaData) -> None:
        child = events(metadata, "events", column("made_at", MOMENT))
        archived = events(metadata, "events_archive", column("made_at", MOMENT, key=True))
        archive_of(child, archived, range_key="made_at" if filled else None)

    return declare


def without_range_key(metadata: MetaData) -> None:
    archive_of(events(metadata, "events"), events(metadata, "events_archive"))


def another_retention(metadata: MetaData) -> None:
    archived = events(metadata, "events_archive", column("made_at", MOMENT, key=True))
    archive_of(events(metadata, "events"), archived, kept=Retention(months=3))


def without_parents_key(metadata: MetaData) -> None:
    child = Table("events", metadata, column("event", key=True))
    Child(child, archive=child, key="payment_id")


def too_few_columns(metadata: MetaData) -> None:
    table = payments(metadata)
    ArchivePolicy(
        live=table,
        archive=table,
        row_id=("payment_id", "state"),
        range_key=None,
        finished_at="made_at",
        grace=timedelta(0),
        unless_exists=[Link("holds", key="payment_id")],
    )


REFUSALS: dict[str, tuple[Callable[[MetaData], object], str]] = {
    "a table that is not in the metadata": (
        lambda metadata: declare_partitions(metadata, [groups_of(payments(MetaData()))]),
        "a policy is about pay.payments, and the metadata has no such table; it has none: import its model",
    ),
    "a key that is no column": (
        lambda metadata: ListPartitions(
            payments(metadata), key="status", groups={"a": "a"}, row_id="payment_id"
        ),
        "pay.payments has no column status, which its policy names as partition key",
    ),
    "a row id that is no column": (
        lambda metadata: ListPartitions(
            payments(metadata), key="state", groups={"a": "a"}, row_id=("payment_id", "no")
        ),
        "pay.payments has no column no, which its policy names as row_id",
    ),
    "a key outside of the primary key": (
        lambda metadata: declare_partitions(metadata, [MonthlyRange(payments(metadata), key="made_at")]),
        "pay.payments: the partition key made_at is not in the primary key (payment_id, state), which "
        "PostgreSQL wants: make it (payment_id, state, made_at)",
    ),
    "another partition_by in the model": (
        lambda metadata: declare_partitions(
            metadata, [groups_of(payments(metadata, postgresql_partition_by="LIST (payment_id)"))]
        ),
        "pay.payments: its model says LIST (payment_id), its policy LIST (state): make them alike",
    ),
    "a RANGE key of text": (
        lambda metadata: MonthlyRange(payments(metadata), key="state"),
        "pay.payments: no months can be made of the RANGE key state: it is Text()",
    ),
    "another type than the model's": (
        lambda metadata: declare_partitions(
            metadata,
            [MonthlyRange("pay.payments_archive", key="made_at", key_type=KeyType.DATE)]
            if payments(metadata, "payments_archive") is not None
            else [],
        ),
        "pay.payments_archive: no months can be made of the RANGE key made_at: it is "
        "DateTime(timezone=True), and "
        "its policy says date",
    ),
    "a child without the parent's key": (
        without_parents_key,
        "events has no column payment_id, which its policy names as the key of its parent",
    ),
    "a link of too few columns": (
        too_few_columns,
        "holds is linked by (payment_id), but a row of pay.payments is named by (payment_id, state)",
    ),
    "a retention without the parent's range key": (
        without_range_key,
        "pay.payments_archive has a retention, and rows of pay.events_archive would outlive theirs in it: it "
        "has no column for the range key",
    ),
    "a retention by the child's own time": (
        with_own_time(filled=False),
        "pay.payments_archive has a retention, and rows of pay.events_archive would outlive theirs in it: it "
        "has no column for the range key",
    ),
    "a column of the child that would be overwritten": (
        with_own_time(filled=True),
        "pay.events has a column made_at of its own, whose values would be lost",
    ),
    "another retention of the child": (
        another_retention,
        "would outlive theirs in it: its retention is another: give both the same",
    ),
}


@pytest.mark.parametrize(("declare", "line"), REFUSALS.values(), ids=REFUSALS.keys())
def test_policy_that_cannot_be_is_one_line_and_declares_nothing(
    declare: Callable[[MetaData], object], line: str
) -> None:
    metadata = MetaData()
    with pytest.raises(PolicyError) as caught:
        declare(metadata)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert POLICIES not in metadata.info
    assert not any("partition_of" in table.info for table in metadata.tables.values())


def test_children_that_carry_the_range_key_may_leave_with_their_parents() -> None:
    metadata = MetaData()
    archived = events(metadata, "events_archive", column("made_at", MOMENT, key=True))
    archive_of(events(metadata, "events"), archived)
    assert len(metadata.info[POLICIES]) == 2


def test_months_of_an_archive_are_those_of_its_children_too() -> None:
    metadata = MetaData()
    live, kept = payments(metadata), payments(metadata, "payments_archive")
    with_key = events(metadata, "events_archive", column("made_at", MOMENT, key=True))
    without = events(metadata, "notes_archive")
    archive = ArchivePolicy(
        live="payments_done",
        partition_of=live,
        archive=kept,
        row_id=live.c.payment_id,
        range_key=live.c.made_at,
        finished_at=live.c.made_at,
        grace=timedelta(days=3),
        children=[
            Child(events(metadata, "events"), archive=with_key, key="payment_id"),
            Child(events(metadata, "notes"), archive=without, key="payment_id"),
        ],
    )
    found = archive.months(months_ahead=2, retention=YEAR)
    assert [(each.table, each.key, each.row_id) for each in found] == [
        ("pay.payments_archive", "made_at", ("payment_id",)),
        ("pay.events_archive", "made_at", ("payment_id", "event")),
    ]
    assert {(each.key_type, each.months_ahead, each.grace, each.retention) for each in found} == {
        (KeyType.TIMESTAMPTZ, 2, timedelta(days=3), YEAR)
    }
    assert archive.months()[0] == MonthlyRange(
        kept, key=kept.c.made_at, row_id=kept.c.payment_id, grace=timedelta(days=3)
    )


def test_an_archive_by_name_has_no_months_without_their_key() -> None:
    links: dict[str, Any] = {
        "row_id": "id",
        "range_key": "id",
        "finished_at": "at",
        "grace": timedelta(days=3),
    }
    child = Child("events", archive="events_archive", key="id")
    archive = ArchivePolicy(live="payments", archive="payments_archive", children=[child], **links)
    with pytest.raises(PolicyError, match="its type is not known here"):
        archive.months()
    found = archive.months(key_at=lambda instant: instant.year)
    assert [(each.table, each.key, each.row_id) for each in found] == [
        ("payments_archive", "id", ("id",)),
        ("events_archive", "id", ("id",)),
    ]
    plain = ArchivePolicy(live="refunds", archive="refunds_archive", **links | {"range_key": None})
    assert plain.months() == ()
