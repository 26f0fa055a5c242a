"""The table of tests that are not run through a pooler, or not always, names tests that there are."""

import re
from pathlib import Path

from tests.integration.ways import DIRECT, DIRECT_FILES, DIRECT_ONLY, SOAK_ONLY, ways_of

TESTS = Path(__file__).parents[1] / "integration"


def test_every_name_in_the_table_is_a_test_on_two_ways() -> None:
    texts = [path.read_text() for path in TESTS.glob("test_readreplica_*.py")]
    there = {
        name for text in texts for name in re.findall(r"^(?:async )?def (test_\w+)\(", text, re.MULTILINE)
    }
    assert DIRECT_ONLY.keys() | SOAK_ONLY <= there
    assert not DIRECT_ONLY.keys() & SOAK_ONLY
    assert all(DIRECT_ONLY.values())


def test_every_file_is_run_on_two_ways_or_says_why_not() -> None:
    on_two = re.compile(r"\b(nodes: PostgresServers|servers: PostgresServers|routed: Topology|way: str)")
    paths = list(TESTS.glob("test_readreplica_*.py"))
    found = {path.name for path in paths if not on_two.search(path.read_text())}
    assert found <= DIRECT_FILES.keys() <= {path.name for path in paths}


def test_what_makes_no_sense_through_a_pooler_is_not_run_there() -> None:
    assert list(ways_of(next(iter(DIRECT_ONLY)))) == [DIRECT]
    assert len(list(ways_of("test_of_another_name"))) == 2
