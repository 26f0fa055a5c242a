"""The library's schema without a server: its chain, and what autogenerate and lint make of guards."""

import re
from pathlib import Path

import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table

from ops.migrate.library import expected_facts, render
from ops.migrate.lint import lint_tree
from ops.migrate.run import render_upgrade
from ops.project.project import Project
from sharding.keys import shard_key
from sharding.migration_ops import (
    CreateShardGuardOp,
    DropShardGuardOp,
    UnknownGuardVersion,
    changes,
)
from sharding.schema import Grantees, Part, grants, metadata, newest_version, sql_of

PARTS: tuple[Part, ...] = ("directory", "shard")


@pytest.mark.parametrize("part", PARTS)
def test_every_version_has_its_sql_and_its_facts(part: Part) -> None:
    for version in range(1, newest_version(part) + 1):
        assert "SET LOCAL lock_timeout" in sql_of(part, version)
        assert expected_facts(part, version)


@pytest.mark.parametrize("part", PARTS)
def test_models_are_the_tables_of_the_newest_version(part: Part) -> None:
    facts = expected_facts(part, newest_version(part))
    columns = {
        (table.name, column.name) for table in metadata(part).tables.values() for column in table.columns
    }
    assert columns == {(fact.table, fact.name) for fact in facts if fact.kind == "column"}
    not_null = {(fact.table, fact.name) for fact in facts if "NOT NULL" in fact.definition}
    for table in metadata(part).tables.values():
        assert {(table.name, column.name) for column in table.columns if not column.nullable} <= not_null


def test_roles_are_quoted_and_those_of_shards_have_more() -> None:
    grantees = Grantees(users=("my-app", "shop", "user"), of_shards=("my-app",))
    statements = [grant.statement for grant in grants("directory", grantees)]
    assert 'GRANT SELECT, INSERT ON public.reference_contents TO "my-app"' in statements
    assert 'GRANT SELECT, INSERT, UPDATE, DELETE ON public.node_leases TO "user"' in statements
    assert not any("two_phase_decisions TO shop" in statement for statement in statements)
    assert not any("migration_ledger" in statement for statement in statements)
    assert render("directory", [], Grantees((), ())) == ""


def models(**keys: str | None) -> MetaData:
    made = MetaData()
    for name, key in keys.items():
        columns = [Column("id", BigInteger, primary_key=True), Column("tenant", BigInteger)]
        Table(name, made, *columns, info=shard_key(key) if key else {})
    return made


def test_guards_are_made_dropped_and_changed_as_the_models_say() -> None:
    wanted = models(new="id", same="id", other="tenant", free=None)
    standing: dict[tuple[str | None, str], str] = {
        (None, "same"): "id",
        (None, "other"): "id",
        (None, "free"): "id",
        (None, "strange"): "id",
    }
    assert list(changes(wanted, standing)) == [
        CreateShardGuardOp("new", "id"),
        DropShardGuardOp("other", "id"),
        CreateShardGuardOp("other", "tenant"),
        DropShardGuardOp("free", "id"),
    ]
    partition = models(orders_hot="id")
    partition.tables["orders_hot"].info["partition_of"] = "orders"
    assert list(changes(partition, {})) == []


def test_a_guard_is_pinned_to_its_version() -> None:
    made = CreateShardGuardOp("Odd Table", "tenant id", schema="billing")
    *_, statement = made.statements()
    assert statement == (
        'ALTER TABLE billing."Odd Table" ADD CONSTRAINT shard_owns_check '
        'CHECK (public.shard_owns("tenant id")) NOT VALID'
    )
    assert made.reverse() == DropShardGuardOp("Odd Table", "tenant id", schema="billing")
    assert made.reverse().reverse() == made
    with pytest.raises(UnknownGuardVersion, match="of version 2, and this library knows 1"):
        CreateShardGuardOp("payments", "id", version=2)


REVISION = '''"""Payments."""

from alembic import op

revision = "0001"
down_revision = None
phase = "pre"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("CREATE TABLE payments (id bigint PRIMARY KEY)")
    # guard
'''
GUARD = 'op.create_shard_guard("payments", key="id")'


def test_linter_and_scripts_know_the_operation(tmp_path: Path) -> None:
    (tmp_path / "unit_payments_models.py").write_text(
        "from sqlalchemy import BigInteger, Column, MetaData, Table\n"
        "from sharding.keys import shard_key\n"
        "made = MetaData()\n"
        'Table("payments", made, Column("id", BigInteger, primary_key=True), info=shard_key("id"))\n'
    )
    file = tmp_path / "mes-storage.toml"
    file.write_text('[trees.payments]\nmetadata = "unit_payments_models:made"\nrevisions = "versions"\n')
    revision = tmp_path / "versions" / "0001.py"
    revision.parent.mkdir()
    revision.write_text(REVISION)
    tree = Project.load(file).tree("payments")
    assert [finding.rule for finding in lint_tree(tree)] == ["table-has-guard"]
    revision.write_text(REVISION.replace("# guard", GUARD))
    assert list(lint_tree(tree)) == []
    script = render_upgrade(tree)
    assert re.search(r"CHECK \(public\.shard_owns\(id\)\) NOT VALID;", script)
