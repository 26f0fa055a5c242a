"""Before or after the deployment: when each revision may run, while the application goes on.

A `pre` revision expands the schema: the code that runs and the code that comes both work with it. A `post`
revision contracts it, and wants the new code everywhere. The mark is an attribute of the revision's module
(`phase = "pre"`): alembic reads the module anyway, and a file keeps its name when review changes the mark.
"""

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Literal, NamedTuple

from alembic.script import Script

from ops.migrate.errors import PhaseOrder, UnmarkedRevision

Phase = Literal["pre", "post"]


class PhasedRevision(NamedTuple):
    """A revision with its mark, and what it brings."""

    revision: str
    phase: Phase
    what: str


def read_phases(scripts: Iterable[Script]) -> list[PhasedRevision]:
    """Read the marks of revisions.

    Raises:
        UnmarkedRevision: one has none.
    """
    return [PhasedRevision(script.revision, _phase_of(script), script.doc) for script in scripts]


def in_phase(lacking: Sequence[PhasedRevision], phase: Phase) -> list[PhasedRevision]:
    """Choose what to run in a phase of a deployment from what a database lacks, oldest first.

    Revisions run in the order of their line, and nothing is skipped. So one rule is enough: what is lacking
    must be `pre` revisions followed by `post` ones - one release - and each phase runs its part. In front
    of the `post` part of an earlier release a `pre` part cannot come, and the other way round.

    Parameters:
        lacking: the revisions that the database lacks.
        phase: which part.

    Raises:
        PhaseOrder: a revision of the phase stands behind one that must not run yet.
    """
    if phase == "post":
        early = next((each for each in lacking if each.phase == "pre"), None)
        posts = list(takewhile(lambda each: each.phase == "post", lacking))
        if early is not None and not posts:
            raise PhaseOrder(wanted="post", blocked_by=early.revision, behind=lacking[-1].revision)
        return posts
    pres = list(takewhile(lambda each: each.phase == "pre", lacking))
    rest = lacking[len(pres) :]
    for late in rest:
        if late.phase == "pre":
            raise PhaseOrder(wanted="pre", blocked_by=rest[0].revision, behind=late.revision)
    return pres


def before_deployment(line: Sequence[PhasedRevision]) -> str:
    """Return the revision that databases have when the newest code starts: all but the last `post` ones."""
    posts = list(takewhile(lambda each: each.phase == "post", reversed(line)))
    kept = line[: len(line) - len(posts)]
    return kept[-1].revision if kept else "base"


def _phase_of(script: Script) -> Phase:
    match getattr(script.module, "phase", None):
        case "pre":
            return "pre"
        case "post":
            return "post"
        case found:
            raise UnmarkedRevision(script.path, found)
