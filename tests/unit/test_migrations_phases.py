"""Which revisions run before a deployment and which after it, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.migrate.errors import PhaseOrder, UnmarkedRevision
from ops.migrate.phases import Phase, PhasedRevision, before_deployment, in_phase, read_phases
from ops.migrate.run import pending
from ops.migrate.scripts import Scripts
from tests.project import PROJECT

PHASES: tuple[Phase, ...] = ("pre", "post")


def line(*phases: Phase) -> list[PhasedRevision]:
    return [PhasedRevision(f"{number:04}", phase, "") for number, phase in enumerate(phases, start=1)]


def test_each_phase_of_a_release_runs_its_part() -> None:
    lacking = line("pre", "pre", "post")
    assert in_phase(lacking, "pre") == lacking[:2]
    assert in_phase(lacking[2:], "post") == lacking[2:]
    assert in_phase([], "pre") == in_phase([], "post") == []


def test_post_waits_for_the_pre_in_front_of_it() -> None:
    with pytest.raises(PhaseOrder, match=r"0001 \(pre\) was not run yet: run .*--phase pre"):
        in_phase(line("pre", "post"), "post")


def test_pre_behind_the_post_of_an_earlier_release_is_refused() -> None:
    with pytest.raises(PhaseOrder, match=r"0003 \(pre\) stands behind 0002 \(post\)"):
        in_phase(line("pre", "post", "pre"), "pre")
    assert in_phase(line("post", "pre"), "post") == line("post")


@given(st.lists(st.sampled_from(PHASES), max_size=8))
def test_deploying_by_phases_ends_and_skips_nothing(phases: list[Phase]) -> None:
    lacking, ran = line(*phases), list[PhasedRevision]()
    while lacking:
        done: list[PhasedRevision] = []
        for phase in PHASES:
            try:
                done = in_phase(lacking, phase)
            except PhaseOrder:
                continue
            if done:
                break
        if not done:  # several releases at once: refused whole, and an unphased run is told as the way
            with pytest.raises(PhaseOrder):
                in_phase(lacking, "pre")
            return
        assert {each.phase for each in done} == {phase}
        ran, lacking = ran + done, lacking[len(done) :]
    assert ran == line(*phases)


def test_schema_at_deployment_lacks_the_last_posts_only() -> None:
    assert before_deployment(line("pre", "post", "pre", "post", "post")) == "0003"
    assert before_deployment(line("post")) == "base"


def test_revision_without_a_mark_is_named() -> None:
    for tree in PROJECT.trees.values():
        assert pending(tree, None)
        scripts = Scripts(tree, tree.revisions).line()
        del scripts[0].module.phase
        with pytest.raises(UnmarkedRevision, match=r"0001_\w+\.py: phase is None: write `phase = \"pre\"`"):
            read_phases(scripts)
