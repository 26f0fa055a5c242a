"""What autogenerate compares here: the metadata of a tree, with the policies of its tables."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import MetaData

from ops.project.project import ProjectTree
from partitions.migration_ops import PLUGINS, POLICIES, ignore_undeclared_partitions

__all__ = ["PLUGINS", "ignore_undeclared_partitions", "metadata_of", "reading_unvalidated_checks"]


@contextmanager
def reading_unvalidated_checks() -> Iterator[None]:
    """Bear with SQLAlchemy 2.1, which reads that a CHECK is NOT VALID and warns of its own word for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Can't validate argument 'dialect_options'")
        yield


def metadata_of(tree: ProjectTree) -> MetaData:
    """Return what the models of a tree declare, with its policies where autogenerate finds them."""
    tree.metadata.info[POLICIES] = tree.policies
    return tree.metadata
