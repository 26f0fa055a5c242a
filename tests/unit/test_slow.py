"""How long orders stand in each status: from histories to figures, without a server."""

from datetime import UTC, datetime, timedelta

import pytest

from app.console.slow import SlowReport, StatusEntry, Stay, percentiles, shown, stays_of
from app.models.status import Status

START = datetime(2026, 12, 1, tzinfo=UTC)


def line(seconds: float, status: Status) -> StatusEntry:
    return StatusEntry(17, status, START + timedelta(seconds=seconds))


def test_a_stay_ends_with_the_next_status_and_not_with_a_remark() -> None:
    history = [
        line(0, Status.SUBMITTED),
        line(60, Status.PRICE_CALCULATED),
        line(70, Status.PRICE_CALCULATED),  # "cancel_refused", say
        line(100, Status.MANUFACTURING_APPROVED),
    ]
    assert list(stays_of(history, now=START + timedelta(seconds=150))) == [
        Stay(17, Status.SUBMITTED, 60, True),
        Stay(17, Status.PRICE_CALCULATED, 40, True),
        Stay(17, Status.MANUFACTURING_APPROVED, 50, False),
    ]


def test_who_has_ended_waits_no_more_and_a_clock_may_stand_behind() -> None:
    history = [line(10, Status.SHIPPED), line(5, Status.CLOSED)]
    assert list(stays_of(history, now=START + timedelta(days=9))) == [Stay(17, Status.SHIPPED, 0, True)]
    assert list(stays_of([], now=START)) == []


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([], (0, 0, 0)), ([4.0], (4, 4, 4)), ([float(n) for n in range(101)], (50, 95, 99))],
)
def test_percentiles(seconds: list[float], expected: tuple[float, ...]) -> None:
    assert percentiles(seconds) == expected


def test_waiting_against_work_and_the_slowest_first() -> None:
    report = SlowReport()
    report.add([Stay(1, Status.SUBMITTED, 30, True), Stay(1, Status.MANUFACTURING_STARTED, 10, True)])
    report.add([Stay(2, Status.SUBMITTED, 60, False)])
    assert report.share_waiting() == 0.9
    assert report.slowest() == [(2, 60, 0), (1, 30, 10)]
    submitted, started = report.stages()
    assert (submitted.stays, submitted.now, submitted.p50, submitted.is_work) == (1, 1, 30, False)
    assert (started.stays, started.now, started.is_work) == (1, 0, True)


def test_times_as_a_person_wants_them() -> None:
    assert [shown(n) for n in (0.44, 90, 5_400, 180_000)] == ["0.4 s", "1.5 min", "1.5 h", "2.1 d"]
