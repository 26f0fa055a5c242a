"""docs/how-to/services.md has the settings of the edge as they are."""

from pathlib import Path

import pytest

from app.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "services.md"
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
