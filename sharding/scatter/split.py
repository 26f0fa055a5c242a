"""Which shards a SELECT concerns: `key IN (...)` and `key = ...` name them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import BinaryExpression, BindParameter, Integer
from sqlalchemy.sql import operators

from sharding.scatter.grammar import Scope
from sharding.scatter.tables import Clause, conjuncts, is_key_of


def split(
    statement: Any, scope: Scope, shards: Sequence[str], shard_of: Callable[[int], str] | None
) -> dict[str, Any]:
    """Make each shard's own SELECT, with the keys that it has; a shard that has none is left out.

    Parameters:
        statement: the SELECT.
        scope: its tables.
        shards: every shard.
        shard_of: tells the shard of a key; None asks all shards for all keys.

    Returns:
        The statement of each shard that is asked; of one at least, for even a count of nothing is 0.
    """
    if not scope.sources.sharded:
        return {shards[0]: statement}
    if shard_of is None:
        return dict.fromkeys(shards, statement)
    criteria = list(conjuncts(statement._where_criteria))
    lists = {i: keys for i, each in enumerate(criteria) if (keys := _keys(each, scope)) is not None}
    if not lists:
        return dict.fromkeys(shards, statement)
    by_list = {i: _by_shard(keys, shard_of) for i, keys in lists.items()}
    concerned = [shard for shard in shards if all(shard in each for each in by_list.values())]
    return {
        shard: _with(statement, criteria, {i: each.get(shard, []) for i, each in by_list.items()})
        for shard in concerned or shards[:1]
    }


def _keys(clause: Clause, scope: Scope) -> list[Any] | None:
    """Give the keys that a condition names, if it names some."""
    if not (isinstance(clause, BinaryExpression) and isinstance(clause.right, BindParameter)):
        return None
    if not any(is_key_of(clause.left, source) for source in scope.sources.sharded):
        return None
    # A type of the caller's own may send another value than the one that is given.
    if not isinstance(clause.right.type, Integer):
        return None
    if clause.operator is operators.eq:
        return [clause.right.effective_value]
    return list(clause.right.effective_value or ()) if clause.operator is operators.in_op else None


def _by_shard(keys: Iterable[Any], shard_of: Callable[[int], str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for key in keys:
        # NULL is in no list, so it is on no shard.
        if key is not None:
            found.setdefault(shard_of(key), []).append(key)
    return found


def _with(statement: Any, criteria: Sequence[Clause], own: dict[int, list[int]]) -> Any:
    """Put a shard's own keys in the place of all; a single key stays as it is."""
    changed = statement._generate()
    changed._where_criteria = tuple(
        each.left.in_(own[i]) if i in own and each.operator is operators.in_op else each
        for i, each in enumerate(criteria)
    )
    return changed
