"""What is measured on examples/payments: the counts themselves, and that the example meets them."""

from pathlib import Path

import pytest

from tests.acceptance.test_docs import ROOT, fenced
from tests.benchmarks.team_lines import EXAMPLE, code_lines, team_lines, workarounds
from tests.benchmarks.team_verbs import ROWS, verbs


def test_the_example_needs_few_lines_and_goes_around_nothing() -> None:
    assert workarounds() == []
    counts = team_lines()
    assert all(counts.values())
    assert sum(counts.values()) <= 75, counts


@pytest.mark.parametrize(
    "line",
    [
        "sessions._directory.load_map()",
        "from sharding import _private",
        "from sharding.keyed import KeyedSessions",
        "import partitions.policy",
        'op.execute("ALTER TABLE payments ADD CHECK (shard_owns(tenant_id))")',
        "return found  # type: ignore[no-any-return]",
        "import sharding  # noqa: F401",
        'setattr(sessions, "clusters", {})',
        "from unittest import mock",
    ],
)
def test_a_way_around_the_library_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "payments.py").write_text(f'"""Payments."""\n\n{line}\n')
    [found] = workarounds(tmp_path)
    assert found.startswith("payments.py:3: ")
    assert found.endswith(line)


@pytest.mark.parametrize(
    "line",
    [
        "from sharding import Topology",
        "from readreplica.asgi import CausalTokens",
        "from partitions import migration_ops",
        "self._sessions = sessions",
        "1_000",
    ],
)
def test_what_is_public_is_no_way_around(tmp_path: Path, line: str) -> None:
    (tmp_path / "payments.py").write_text(line)
    assert workarounds(tmp_path) == []


def test_a_line_of_code_is_no_comment_no_docstring_and_not_blank() -> None:
    text = (
        '"""One.\n\nTwo."""\n\n# three\nimport os\n\n\ndef four():\n    """Five."""\n    return os  # six\n'
    )
    assert code_lines(text, is_python=True) == {6, 9, 11}


def test_every_verb_of_mesctl_has_a_row() -> None:
    assert {*verbs()} == {*ROWS}


def test_the_page_about_causal_tokens_shows_what_the_example_has() -> None:
    page = ROOT / "docs" / "how-to" / "causal-tokens.md"
    *blocks, client = fenced(page, "python")
    service = (EXAMPLE / "payments" / "counter.py").read_text()
    assert [block for block in blocks if block not in service] == []
    assert "CausalClient" in client  # test_payments_example runs it
    [keys] = fenced(page, "toml")
    assert keys in (EXAMPLE / "mes-storage.toml").read_text()
