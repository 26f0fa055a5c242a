"""What autogenerate compares here: the metadata of each tree, with the policies of its tables."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from app.models.policies import POLICIES as TREES
from migrations.trees import METADATA
from partitions.migration_ops import PLUGINS, POLICIES, ignore_undeclared_partitions

__all__ = ["PLUGINS", "ignore_undeclared_partitions", "reading_unvalidated_checks"]


@contextmanager
def reading_unvalidated_checks() -> Iterator[None]:
    """Bear with SQLAlchemy 2.1, which reads that a CHECK is NOT VALID and warns of its own word for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Can't validate argument 'dialect_options'")
        yield


for tree, policies in TREES.items():
    METADATA[tree].info[POLICIES] = policies
