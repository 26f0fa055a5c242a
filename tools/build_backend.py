"""How this repository is built (PEP 517, PEP 660): setuptools, which learns here what is to be installed.

An editable install is a developer's: it has every package, and `mesctl`. A wheel is another team's: with a
top-level `app` in it, installing it would shadow theirs, and uninstalling it delete their files. `setup.py`
finds the packages of each.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = Mapping[str, Any] | None
EVERYTHING = "MES_STORAGE_BUILD_EVERYTHING"
"""The variable of the environment by which `setup.py` knows an editable install."""


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel of the libraries; return its file name."""
    # setuptools would put into it whatever an earlier build has left in ./build.
    with TemporaryDirectory() as fresh:
        settings = {**(config_settings or {}), "--global-option": ["build", f"--build-base={fresh}"]}
        return str(build_meta.build_wheel(wheel_directory, settings, metadata_directory))


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: Settings = None) -> str:
    """Write the metadata of an editable install; return its folder's name."""
    with _everything():
        return str(build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings))


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel of an editable install; return its file name."""
    with _everything():
        return str(build_meta.build_editable(wheel_directory, config_settings, metadata_directory))


@contextmanager
def _everything() -> Iterator[None]:
    os.environ[EVERYTHING] = "1"
    try:
        yield
    finally:
        del os.environ[EVERYTHING]
