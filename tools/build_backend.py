"""How this repository is installed (PEP 660): as a whole, for its developers. It is no wheel itself.

A wheel of everything would put a top-level `app` beside another team's, and uninstalling it would delete
their files. `python -m tools.wheels` makes the three wheels that are published.
"""

from typing import Any, NoReturn

from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    prepare_metadata_for_build_editable,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "prepare_metadata_for_build_editable",
]

ADVICE = "this repository is three wheels: `python -m tools.wheels --out DIR` builds them"


def build_wheel(*_: Any, **__: Any) -> NoReturn:
    """Refuse.

    Raises:
        SystemExit: always; it says what builds wheels.
    """
    raise SystemExit(ADVICE)


build_sdist = build_wheel
