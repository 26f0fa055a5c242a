"""Every rule of the lint refuses what it is for, and the project's own revisions break none."""

from pathlib import Path

import pytest

from ops import cli
from ops.errors import ExitStatus
from ops.migrate.lint import lint_tree
from tests.project import PROJECT

HEAD = '''"""A revision."""

from alembic import op

revision = {revision!r}
down_revision = {down!r}
{more}


def upgrade() -> None:
'''
TIMEOUT = "SET LOCAL lock_timeout = '3s'"
PHASE = 'phase = "pre"'
GUARD = "CONSTRAINT shard_owns_check CHECK (shard_owns(order_id))"
ORDERS = (
    f"CREATE TABLE orders (order_id bigint, status text, PRIMARY KEY (order_id, status), {GUARD}) "
    "PARTITION BY LIST (status)"
)


def write(folder: Path, revision: str, *lines: str, down: str | None = None, more: str = PHASE) -> None:
    body = "".join(f"    {line}\n" for line in lines)
    text = HEAD.format(revision=revision, down=down, more=more) + body
    (folder / f"{revision}.py").write_text(text)


def run_sql(*statements: str) -> list[str]:
    return [f"op.execute({statement!r})" for statement in statements]


def broken(folder: Path, tree: str = "mes") -> list[tuple[str, str]]:
    return [(finding.revision, finding.rule) for finding in lint_tree(PROJECT.tree(tree), folder)]


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("CREATE TABLE a (id bigint)", "table-has-primary-key"),
        (
            "CREATE TABLE a PARTITION OF months FOR VALUES FROM (MINVALUE) TO (10)",
            "partition-bound-is-finite",
        ),
        (
            "ALTER TABLE months ATTACH PARTITION orders_x FOR VALUES FROM (10) TO (MAXVALUE)",
            "partition-bound-is-finite",
        ),
        (
            "CREATE TABLE a (id bigint PRIMARY KEY, s text) PARTITION BY LIST (s)",
            "unique-key-has-partition-key",
        ),
        ("ALTER TABLE orders ADD CONSTRAINT one UNIQUE (order_id)", "unique-key-has-partition-key"),
        ("CREATE UNIQUE INDEX one ON ONLY orders (order_id)", "unique-key-has-partition-key"),
        (
            "CREATE TABLE a PARTITION OF orders FOR VALUES IN ('x') PARTITION BY HASH (order_id)",
            "citus-one-partition-level",
        ),
        (
            "ALTER TABLE months ATTACH PARTITION orders FOR VALUES FROM (1) TO (2)",
            "citus-one-partition-level",
        ),
        (
            "CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION f()",
            "citus-no-trigger",
        ),
        (
            "CREATE TABLE a (id bigint PRIMARY KEY REFERENCES b (id) ON UPDATE CASCADE)",
            "citus-no-update-cascade",
        ),
        ("CREATE INDEX slow ON orders (order_id)", "require-concurrent-index-creation"),
        ("ALTER TABLE orders ALTER COLUMN status SET NOT NULL", "adding-not-nullable-field"),
        ("CREATE TABEL a", "syntax-error"),
    ],
)
def test_rule_is_broken_in_a_later_revision(tmp_path: Path, statement: str, rule: str) -> None:
    write(tmp_path, "0001", *run_sql(TIMEOUT, ORDERS))
    write(tmp_path, "0002", *run_sql(TIMEOUT, statement), down="0001")
    assert ("0002", rule) in broken(tmp_path)
    assert [found for found in broken(tmp_path) if found[0] == "0001"] == []


def test_a_key_that_is_added_in_the_same_revision_is_enough(tmp_path: Path) -> None:
    add_key = "ALTER TABLE a ADD PRIMARY KEY (id)"
    write(tmp_path, "0001", *run_sql(TIMEOUT, "CREATE TABLE a (id bigint NOT NULL)", add_key))
    assert ("0001", "table-has-primary-key") not in broken(tmp_path)


INBOX = f"CREATE TABLE inbox (order_id bigint PRIMARY KEY, {GUARD})"
KEYLESS = "CREATE TABLE old (order_id bigint NOT NULL, status text) PARTITION BY LIST (status)"
ALLOWED = "lint_allows = {'table-has-primary-key': 'of an earlier time'}"


@pytest.mark.field
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE a AS SELECT 1 AS id",
        "CREATE TABLE IF NOT EXISTS a AS TABLE inbox WITH NO DATA",
        "CREATE TABLE a AS EXECUTE old_query",
        "SELECT 1 AS id INTO a",
        "WITH one AS (SELECT 1 AS id) SELECT * INTO a FROM one",
        "CREATE TABLE a (LIKE inbox)",
        "CREATE TABLE a (LIKE inbox INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
        "CREATE TABLE a (LIKE inbox INCLUDING ALL EXCLUDING INDEXES)",
        "CREATE TABLE a (LIKE old INCLUDING ALL)",
        "CREATE TABLE a (note text) INHERITS (inbox)",
        "CREATE TABLE a OF pair",
        "CREATE TABLE a PARTITION OF old FOR VALUES IN ('x')",
        "ALTER TABLE inbox DROP CONSTRAINT inbox_pkey",
        "ALTER TABLE inbox DROP COLUMN order_id",
        "ALTER TABLE inbox RENAME CONSTRAINT inbox_pkey TO one; ALTER TABLE inbox DROP CONSTRAINT one",
        "ALTER TABLE inbox RENAME order_id TO id; ALTER TABLE inbox DROP id",
        "ALTER TABLE inbox RENAME TO b; ALTER TABLE b DROP CONSTRAINT inbox_pkey",
        "ALTER TABLE months DROP CONSTRAINT months_pkey CASCADE",
    ],
)
def test_table_without_a_primary_key_is_found_however_it_comes_about(tmp_path: Path, statement: str) -> None:
    write(tmp_path, "0001", *run_sql(TIMEOUT, INBOX, KEYLESS), more=f"{PHASE}\n{ALLOWED}")
    write(tmp_path, "0002", *run_sql(TIMEOUT, *statement.split("; ")), down="0001")
    assert [found for found in broken(tmp_path) if found[1] == "table-has-primary-key"] == [
        ("0002", "table-has-primary-key")
    ]


@pytest.mark.field
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TEMP TABLE a AS SELECT 1 AS id",
        "SELECT 1 AS id INTO TEMPORARY a",
        "CREATE TABLE a AS SELECT 1 AS id; ALTER TABLE a ADD PRIMARY KEY (id)",
        "CREATE TABLE a AS SELECT 1 AS id; DROP TABLE a",
        "CREATE TABLE a (LIKE inbox INCLUDING ALL)",
        "CREATE TABLE a (LIKE inbox INCLUDING INDEXES)",
        "CREATE TABLE a OF pair (PRIMARY KEY (id))",
        "CREATE TABLE a PARTITION OF old FOR VALUES IN ('x'); "
        "ALTER TABLE old ADD PRIMARY KEY (order_id, status)",
        "CREATE TABLE a PARTITION OF months FOR VALUES FROM (1) TO (2)",
        "ALTER TABLE inbox DROP CONSTRAINT inbox_pkey, ADD CONSTRAINT one PRIMARY KEY USING INDEX other",
        "ALTER TABLE inbox DROP CONSTRAINT inbox_pkey; ALTER TABLE inbox ADD PRIMARY KEY (order_id)",
        "CREATE MATERIALIZED VIEW a AS SELECT 1 AS id",
    ],
)
def test_table_with_a_primary_key_is_let_alone(tmp_path: Path, statement: str) -> None:
    write(tmp_path, "0001", *run_sql(TIMEOUT, INBOX, KEYLESS), more=f"{PHASE}\n{ALLOWED}")
    write(tmp_path, "0002", *run_sql(TIMEOUT, *statement.split("; ")), down="0001")
    assert "table-has-primary-key" not in [rule for _, rule in broken(tmp_path)]


@pytest.mark.field
def test_what_alembic_itself_makes_needs_a_primary_key(tmp_path: Path) -> None:
    write(
        tmp_path,
        "0001",
        *run_sql(TIMEOUT),
        "from sqlalchemy import Column, Integer",
        "op.create_table('a', Column('id', Integer))",
    )
    assert ("0001", "table-has-primary-key") in broken(tmp_path)
    write(tmp_path, "0001", *run_sql(TIMEOUT, INBOX), "op.drop_constraint('inbox_pkey', 'inbox')")
    assert ("0001", "table-has-primary-key") in broken(tmp_path)


@pytest.mark.field
@pytest.mark.parametrize("tree", ["mes", "crm"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE UNLOGGED TABLE a (id bigint PRIMARY KEY)",
        "ALTER TABLE inbox SET UNLOGGED",
        "CREATE UNLOGGED TABLE a AS SELECT 1 AS id",
        "SELECT 1 AS id INTO UNLOGGED a",
    ],
)
def test_unlogged_table_is_on_no_replica(tmp_path: Path, tree: str, statement: str) -> None:
    write(tmp_path, "0001", *run_sql(TIMEOUT, INBOX, statement))
    assert ("0001", "table-is-logged") in broken(tmp_path, tree)


@pytest.mark.field
def test_table_with_a_shard_key_needs_its_guard_by_the_head(tmp_path: Path) -> None:
    plain = "CREATE TABLE inbox (order_id bigint PRIMARY KEY)"
    write(tmp_path, "0001", *run_sql(TIMEOUT, plain))
    assert broken(tmp_path, "mes") == [("0001", "table-has-guard")]
    assert broken(tmp_path, "crm") == []
    later = f"ALTER TABLE inbox ADD {GUARD} NOT VALID"
    write(tmp_path, "0002", *run_sql(TIMEOUT, later), down="0001")
    assert broken(tmp_path, "mes") == []
    write(tmp_path, "0002", *run_sql(TIMEOUT, "CREATE TABLE outbox (LIKE inbox INCLUDING ALL)"), down="0001")
    assert broken(tmp_path, "mes") == [("0001", "table-has-guard"), ("0002", "table-has-guard")]


def test_citus_rules_are_for_sharded_trees(tmp_path: Path) -> None:
    trigger = "CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION f()"
    write(tmp_path, "0001", *run_sql(TIMEOUT, ORDERS, trigger))
    assert broken(tmp_path, "mes") == [("0001", "citus-no-trigger")]
    assert broken(tmp_path, "crm") == []


AUTOCOMMIT = [
    "with op.get_context().autocommit_block():",
    "    op.execute('CREATE INDEX CONCURRENTLY IF NOT EXISTS one_idx ON orders_hot (order_id)')",
]
CHANGE = "op.execute('ALTER TABLE orders ADD COLUMN lane text')"


def test_timeout_does_not_outlive_the_transaction_in_front_of_an_autocommit_block(tmp_path: Path) -> None:
    write(tmp_path, "0001", *run_sql(TIMEOUT), CHANGE, *AUTOCOMMIT, CHANGE)
    assert broken(tmp_path) == [("0001", "require-lock-timeout")]
    write(tmp_path, "0001", *run_sql(TIMEOUT), CHANGE, *AUTOCOMMIT, *run_sql(TIMEOUT), CHANGE)
    assert broken(tmp_path) == []


def test_concurrent_build_belongs_outside_the_transaction(tmp_path: Path) -> None:
    build = "CREATE INDEX CONCURRENTLY IF NOT EXISTS one_idx ON orders_hot (order_id)"
    write(tmp_path, "0001", *run_sql(TIMEOUT, build))
    assert ("0001", "ban-concurrent-index-creation-in-transaction") in broken(tmp_path)


def test_allowance_needs_a_reason_and_a_need(tmp_path: Path) -> None:
    build = run_sql(TIMEOUT, "CREATE INDEX small_idx ON node_leases (node)")
    rule = "require-concurrent-index-creation"
    write(tmp_path, "0001", *build, more=f"{PHASE}\nlint_allows = {{{rule!r}: 'a table of 1,024 rows'}}")
    assert broken(tmp_path) == []
    write(tmp_path, "0001", *build, more=f"{PHASE}\nlint_allows = {{{rule!r}: ''}}")
    assert broken(tmp_path) == [("0001", rule), ("0001", rule)]
    write(tmp_path, "0001", *run_sql("SELECT 1"), more=f"{PHASE}\nlint_allows = {{{rule!r}: 'why'}}")
    assert broken(tmp_path) == [("0001", rule)]


def test_unmarked_revision_is_found(tmp_path: Path) -> None:
    write(tmp_path, "0001", *run_sql("SELECT 1"), more="")
    assert broken(tmp_path) == [("0001", "phase-is-marked")]


def test_revisions_of_the_project_break_no_rule() -> None:
    assert [finding for tree in PROJECT.trees.values() for finding in lint_tree(tree)] == []


def test_mesctl_lints_without_a_topology(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--home", "nowhere", "migrate", "lint", "--tree", "crm"]) == ExitStatus.DONE
    assert capsys.readouterr().out == "no revision breaks a rule\n"
