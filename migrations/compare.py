"""What autogenerate compares here: the metadata of each tree, with the policies of its tables."""

from app.models.policies import POLICIES as TREES
from migrations.trees import METADATA
from partitions.migration_ops import PLUGINS, POLICIES, ignore_undeclared_partitions

__all__ = ["PLUGINS", "ignore_undeclared_partitions"]

for tree, policies in TREES.items():
    METADATA[tree].info[POLICIES] = policies
