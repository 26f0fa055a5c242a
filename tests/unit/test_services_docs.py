"""Pages name settings and tests as they are."""

import re
from pathlib import Path

import pytest

from app.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "services.md"
EDGE = {
    "max_connections": 512,
    "max_requests": 64,
    "max_json_bytes": 65536,
    "header_seconds": 10,
    "body_seconds": 20,
    "answer_seconds": 30,
    "idle_seconds": 60,
    "request_seconds": 10,
    "statement_seconds": 5,
    "queue_seconds": 1,
    "trusted_proxies": "",
}


@pytest.mark.parametrize("name", EDGE)
def test_a_setting_is_described_with_its_default(name: str) -> None:
    assert Settings.model_fields[name].default == EDGE[name]
    [line] = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert line.split("|")[2].strip().startswith(str(EDGE[name]) or "none")


def test_each_of_the_ten_risks_has_tests_that_exist() -> None:
    page = (ROOT / "docs" / "reference" / "owasp-api.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| API")]
    assert [row.split()[1] for row in rows] == [f"API{number}" for number in range(1, 11)]
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named
        assert [name for name in named if f"def {name}(" not in tests] == []
