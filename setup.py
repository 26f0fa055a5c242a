"""Which packages are installed; the rest is in pyproject.toml, and tools/build_backend.py says why."""

import os

from setuptools import find_packages, setup

libraries = find_packages(include=["partitions*", "readreplica*", "sharding*"])
platform = find_packages(include=["app*", "ops*"])
is_editable = "MES_STORAGE_BUILD_EVERYTHING" in os.environ

setup(
    packages=libraries + platform if is_editable else libraries,
    entry_points={"console_scripts": ["mesctl = ops.__main__:main"] if is_editable else []},
)
