"""`mesctl orders logs` on files as services, logrotate and full disks leave them."""

import gzip
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.console.logs import Follower, LineFilter, find_lines, log_files
from app.kit.logs import render_line
from app.log_events import SCHEMA
from ops.waiting import wait_until
from tests.integration.mesctl_rig import Mesctl

ORDER = 386_389_636_768_862_208


def line(
    service: str, event: str, *, order_id: int = ORDER, at: str, level: str = "info", **facts: object
) -> str:
    facts = {"order_id": order_id, "timestamp": f"2026-12-02T05:{at}+00:00", **facts}
    return render_line(service, SCHEMA, level, event, **facts) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Logs of three services; the Shop's has rotated, the CRM's by logrotate with compression."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "shop.log.1").write_text(line("shop", "order_created", at="01:00"))
    (folder / "shop.log").write_text(
        line("shop", "order_submitted", at="03:00")
        + line("shop", "order_created", order_id=ORDER + 1, at="03:30")
    )
    with gzip.open(folder / "crm.log.2.gz", "wt") as old:
        old.write(line("crm", "message_handled", at="03:01", message_type="order.submitted"))
    torn = line("mes", "order_priced", at="05:00")[:60]
    (folder / "mes.log").write_text(
        f"Traceback (most recent call last):\nKeyError: {ORDER}\n{torn}\n"
        + line("mes", "unforeseen", at="04:00", level="error", error=f"order {ORDER + 1}, no ring")
        + line("mes", "message_handled", order_id=ORDER + 1, at="04:30", reason=f"before {ORDER}")
    )
    return folder


@pytest.fixture
def mesctl(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Mesctl:
    monkeypatch.setenv("MES_STORAGE_LOGS", str(folder))
    return Mesctl(tmp_path / "topology.toml", capsys)


def test_lines_of_all_services_come_in_the_order_of_their_time(mesctl: Mesctl) -> None:
    said = mesctl("orders", "logs", str(ORDER))
    assert said.status == 0, said.err
    assert [row.split()[1:4] for row in said.out.splitlines()] == [
        ["shop", "INFO", "order_created"],
        ["shop", "INFO", "order_submitted"],
        ["crm", "INFO", "message_handled"],
        ["mes", "ERROR", "unforeseen"],
    ]
    assert said.out.splitlines()[-1].endswith(f"error.message=order {ORDER + 1}, no ring")


def test_lines_are_chosen_by_level_and_time(mesctl: Mesctl, folder: Path) -> None:
    recent = datetime.now(UTC) - timedelta(minutes=5)
    with (folder / "mes.log").open("a") as log:
        log.write(
            render_line("mes", SCHEMA, "info", "order_taken", order_id=ORDER, timestamp=recent.isoformat())
            + "\n"
        )
    [severe] = mesctl("--json", "orders", "logs", str(ORDER), "--level", "error").json
    assert severe["event.action"] == "unforeseen"
    newest = mesctl("--json", "orders", "logs", str(ORDER), "--since", "1h").json
    assert [each["event.action"] for each in newest if each["@timestamp"] > "2026-12-02T05:30"] == [
        "order_taken"
    ]
    assert mesctl("orders", "logs", str(ORDER), "--level", "loud").status == 2


def test_no_logs_and_no_order_are_said_apart(mesctl: Mesctl, tmp_path: Path) -> None:
    unknown = mesctl("orders", "logs", "17")
    assert unknown.status == 1
    assert "none of the 4 log files" in unknown.err
    assert "mesctl orders trace 17" in unknown.err
    (tmp_path / "empty").mkdir()
    empty = mesctl("orders", "logs", str(ORDER), "--folder", str(tmp_path / "empty"))
    assert empty.status == 1
    assert "there are no log files in" in empty.err


def test_very_many_lines_are_the_newest(folder: Path) -> None:
    (folder / "mes.log").write_text("".join(line("mes", "order_taken", at=f"10:{n:02}") for n in range(60)))
    found = find_lines(log_files(folder), LineFilter(ORDER), most=10)
    assert [each["@timestamp"][14:19] for each in found] == [f"10:{n}" for n in range(50, 60)]


def test_new_lines_are_followed_over_a_rotation(folder: Path) -> None:
    follower, wanted = Follower(folder), LineFilter(ORDER)

    def news() -> list[str]:
        return [str(found["event.action"]) for raw in follower.appended() if (found := wanted.parse(raw))]

    assert news() == []
    log = folder / "shop.log"
    whole = line("shop", "order_closed", at="20:00")
    with log.open("a") as file:
        file.write(line("shop", "order_priced", at="19:00") + whole[:50])
    assert news() == ["order_priced"]
    with log.open("a") as file:
        file.write(whole[50:])
    assert news() == ["order_closed"]
    log.rename(folder / "shop.log.2")
    log.write_text(line("shop", "order_rejected", at="21:00"))
    (folder / "new.log").write_text(line("new", "order_taken", at="22:00"))
    assert news() == ["order_taken", "order_rejected"]
    log.write_text(line("shop", "order_taken", at="9:0"))
    assert news() == ["order_taken"], "it was truncated"


def test_following_ends_after_its_time(mesctl: Mesctl, folder: Path) -> None:
    written = threading.Event()

    def write_until(done: Callable[[], bool]) -> None:
        def append() -> bool:
            with (folder / "crm.log").open("a") as file:
                file.write(line("crm", "order_approved", at="40:00"))
            return done()

        wait_until(append, timeout_seconds=30, every_seconds=0.1)

    writer = threading.Thread(target=write_until, args=(written.is_set,))
    writer.start()
    said = mesctl("--json", "orders", "logs", str(ORDER), "--follow", "1s")
    written.set()
    writer.join()
    assert said.status == 0
    assert "order_approved" in {json.loads(row)["event.action"] for row in said.out.splitlines()}
