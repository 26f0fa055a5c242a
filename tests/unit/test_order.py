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
    assert found[:5] == ["b1", "0", "1", "2", "3"]
    assert found[5:] == ["a1", "a2", "c1", "4", "5"]


def test_two_workers_begin_with_whole_platforms() -> None:
    marked = [(f"tests/acceptance/{name}", f"{name}1") for name in "abc"] + [("tests/unit/d", "d1")]
    found = spread(marked, [str(number) for number in range(8)], workers=4)
    assert [found[place : place + 3] for place in range(0, 12, 3)] == [
        ["a1", "c1", "0"],
        ["b1", "1", "2"],
        ["3", "4", "5"],
        ["d1", "6", "7"],
    ]
