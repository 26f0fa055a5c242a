"""Schema changes that would lock a table for long, cut into steps that do not.

from partitions.online import apply, backfill, render, require_not_null

change = require_not_null("order_items", "model_name")
print(render(change))                 # what would be run, as psql accepts it
apply(engine, change)                 # killed in the middle? run it again

Every change is planned purely; `apply` skips the steps that the catalogue shows as done.
"""

from partitions.online.backfill import Backfill, BackfillResult, Lag, backfill
from partitions.online.change import Change, ChangeStep, Precondition
from partitions.online.column_type import TypeChange, change_type
from partitions.online.columns import ColumnFacts, read_column
from partitions.online.constraints import add_foreign_key, add_unique, require_not_null
from partitions.online.execute import apply, render

__all__ = [
    "Backfill",
    "BackfillResult",
    "Change",
    "ChangeStep",
    "ColumnFacts",
    "Lag",
    "Precondition",
    "TypeChange",
    "add_foreign_key",
    "add_unique",
    "apply",
    "backfill",
    "change_type",
    "read_column",
    "render",
    "require_not_null",
]
