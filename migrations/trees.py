"""The migration trees: one for each kind of database."""

from collections.abc import Mapping
from types import MappingProxyType

from sqlalchemy import MetaData

import app.models.reference  # noqa: F401 (it adds its tables to the metadata of the MES shards)
from app.models.crm import CrmBase
from app.models.directory import DirectoryBase
from app.models.mes import MesBase
from app.models.shop import ShopBase
from sharding.topology import Tree

METADATA: Mapping[Tree, MetaData] = MappingProxyType(
    {
        "shop": ShopBase.metadata,
        "crm": CrmBase.metadata,
        "mes": MesBase.metadata,
        "directory": DirectoryBase.metadata,
    }
)
"""What the models of each tree declare; a migrated database must equal it (`alembic -n TREE check`)."""
