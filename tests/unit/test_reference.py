"""The reference has every key, public name and verb, and the files that pages show are valid."""

import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ops.errors import ExitStatus
from ops.project.project import (
    CommandEntry,
    GatewayEntry,
    MonitoringEntry,
    ProjectFile,
    ServiceEntry,
    TreeEntry,
    UpEntry,
)
from ops.verbs import VERBS
from sharding.topology import (
    Database,
    PgBouncer,
    Pool,
    PooledService,
    Replicas,
    Tls,
    Topology,
    TopologyModel,
    Tree,
)
from tests.unit.test_public_surface import PUBLIC
from tools.reference import PACKAGES, reference_pages

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = DOCS / "reference"
SECTIONS: dict[str, dict[str, type[BaseModel]]] = {
    "topology.md": {
        "At the top": TopologyModel,
        "`[trees.NAME]`": Tree,
        "`[databases.NAME]`": Database,
        "`[tls]`": Tls,
        "`[pool]`": Pool,
        "`[replicas]`": Replicas,
        "`[pgbouncer]`": PgBouncer,
        "`[pgbouncer.services.NAME]`": PooledService,
    },
    "project.md": {
        "At the top": ProjectFile,
        "`[trees.NAME]`": TreeEntry,
        "`[commands.NAME]`": CommandEntry,
        "`[services.NAME]`": ServiceEntry,
        "`[up]`": UpEntry,
        "`[monitoring]`": MonitoringEntry,
        "`[gateway]`": GatewayEntry,
    },
}


def rows_of(page: str, section: str) -> dict[str, str]:
    """The keys and defaults of the table under a heading."""
    [_, text] = re.split(rf"^## {re.escape(section)}(?:,.*)?$", (REFERENCE / page).read_text(), flags=re.M)
    lines = text.partition("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| `")]
    return {row[1].strip("`"): row[2].strip("`") for row in cells}


@pytest.mark.parametrize(
    ("page", "section"), [(page, section) for page, sections in SECTIONS.items() for section in sections]
)
def test_every_key_is_there_with_its_default(page: str, section: str) -> None:
    rows, fields = rows_of(page, section), SECTIONS[page][section].model_fields
    assert rows.keys() == fields.keys()
    for name, field in fields.items():
        # The roles of a tree follow from its name, so to the model they are required.
        if field.is_required() and name not in {"owner", "role"}:
            assert rows[name] == "required", name
        elif isinstance(field.default, int | float | str):
            assert rows[name] == str(field.default), name


def test_every_exit_status_is_there() -> None:
    text = (REFERENCE / "exit-statuses.md").read_text()
    for status in ExitStatus:
        assert f"| {status.value} | {status.name.lower()} |" in text


def test_every_public_name_and_every_verb_has_a_place_in_the_generated_pages() -> None:
    assert sorted(PACKAGES) == sorted(PUBLIC)
    pages = dict(reference_pages())
    for package in PACKAGES:
        listed = re.findall(rf"^::: {re.escape(package)}\.(\w+)$", pages[f"reference/api/{package}.md"], re.M)
        assert sorted(listed) == sorted(importlib.import_module(package).__all__)
    assert {f"reference/mesctl/{verb}.md" for verb in VERBS} <= pages.keys()
    migrate = pages["reference/mesctl/migrate.md"]
    assert "## mesctl migrate upgrade" in migrate
    assert "| `--phase <pre|post>` | Only what belongs before" in migrate
    assert "| `BucketNotOwned` |" in pages["reference/errors.md"]


def blocks_of(page: str) -> Iterator[dict[str, Any]]:
    """What the blocks of a page make one after the other: each is added to those before it."""
    content: dict[str, Any] = {}
    for block in re.findall(r"^```toml\n(.*?)^```", (DOCS / "how-to" / page).read_text(), re.M | re.S):
        content = merged(content, tomllib.loads(block))
        yield content


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two tables in one; the other's keys win."""
    both = {
        key: merged(one[key], other[key]) for key in one.keys() & other.keys() if isinstance(one[key], dict)
    }
    return one | other | both


def toml_of(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_of(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    return json.dumps(value)


def test_the_topologies_of_the_page_load(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    for content in blocks_of("topology.md"):
        path.write_text("".join(f"{key} = {toml_of(value)}\n" for key, value in content.items()))
        topology = Topology.load(path)
    assert topology.databases_of("payments").keys() == {"payments_0", "payments_1"}
    assert topology.trees["payments"].role == "clerk"
    assert topology.sections["mail"] == {"host": "mail.example"}


def test_the_project_files_of_the_page_are_valid() -> None:
    for content in blocks_of("project.md"):
        file = ProjectFile.model_validate(content)
    assert (file.trees["payments"].policies, file.services["api"].health) == (
        "payments.policies:POLICIES",
        "/healthz",
    )
