"""The order of tests loses none, and gives every worker some of those that take long."""

import pytest

from tests.order import spread


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("many", "long"), [(0, 0), (3, 9), (20, 5), (100, 1)])
def test_every_test_is_run_once(workers: int, many: int, long: int) -> None:
    marked = [(f"file {number // 2}", f"long {number}") for number in range(long)]
    others = [f"test {number}" for number in range(many)]
    found = spread(marked, others, workers=workers)
    assert sorted(found) == sorted([*others, *(test for _, test in marked)])
    assert [test for test in found if test in others] == others


def test_every_worker_begins_with_some_of_the_long_ones_and_files_stay_together() -> None:
    marked = [("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1")]
    found = spread(marked, [str(number) for number in range(6)], workers=2)
    assert found[:5] == ["a1", "a2", "c1", "0", "1"]
    assert found[5:] == ["b1", "2", "3", "4", "5"]
