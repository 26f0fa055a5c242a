"""What README and docs tell a reader to type is typed here."""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import insert

from app.models.mes import MesOrder
from app.models.status import Channel, Status
from ops.embedded.home import Home
from ops.embedded.platform import Platform
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.sessions import open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.once import made_once
from tests.project import PROJECT

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FOLLOWED = [page for page in PAGES if page.name != "tutorial.md"]  # which has a test of its own

TOGETHER = (
    ("trouble", "night-shift", "logs", "gateway"),
    # The last ones change a schema, and send the verbs to a pooler.
    ("sharding", "forecast", "migrations", "online-changes", "pgbouncer"),
)
"""Pages about services that run, and about databases: each followed on one platform, in this order."""


def fenced(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def typed_commands(page: Path) -> list[str]:
    """The lines behind a prompt, in the order in which a reader types them."""
    return [line[2:] for block in fenced(page, "console") for line in block.splitlines() if line[:2] == "$ "]


def scripts() -> Iterator[object]:
    """Give the pages that are followed together, most often a single one, as pytest's parameters."""
    pages = {page.stem: page for page in FOLLOWED if typed_commands(page)}
    for names in TOGETHER:
        yield pytest.param([pages.pop(name) for name in names], id=" ".join(names))
    for name, page in pages.items():
        yield pytest.param([page], id=name)


def commands_of(pages: Sequence[Path]) -> list[str]:
    """Return what is typed on pages that are followed together; the platform runs until the last one ends."""
    *first, last = map(typed_commands, pages)
    kept = [line for commands in first for line in commands if line != "mesctl down"]
    return [*kept, *last, *(["mesctl down"] if first else [])]


@pytest.fixture(scope="module")
def stopped_platform(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Give the folder of a platform that was started once and stopped: its `up` has no data to make."""

    def make(folder: Path) -> None:
        platform = Platform(folder / "platform", PROJECT, safe=False)
        try:
            platform.up(services=False)
        finally:
            platform.down()

    return Home(made_once(tmp_path_factory, "stopped-platform", make) / "platform")


@pytest.fixture
def home(pages: Sequence[Path], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give the folder of the platform that a page starts; README's has to be made, as a reader's."""
    home = tmp_path / "platform"
    if pages[0].stem != "README" and starts_a_platform(pages[0]):
        copy_stopped(request.getfixturevalue("stopped_platform"), home)
    yield home
    Platform(home, PROJECT).down()


def copy_stopped(original: Home, copy: Path) -> None:
    """Copy a platform's folder; without the topology, which names its ports and its path."""
    # cp: the owner of the data is who PostgreSQL ran as.
    subprocess.run(["cp", "--archive", original.path, copy], check=True)
    Home(copy).topology.unlink()


def starts_a_platform(page: Path) -> bool:
    return any(command.startswith("mesctl up") for command in typed_commands(page))


@pytest.mark.long
@pytest.mark.parametrize("pages", [*scripts()])
def test_console_blocks_run_from_top_to_bottom(
    pages: Sequence[Path], home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    programs = [Path(sys.executable).parent]
    if pages[0].stem != "README":  # whose commands start as a reader's do
        programs.insert(0, request.getfixturevalue("warm_mesctl").parent)
    environment = os.environ | {
        "MES_STORAGE_HOME": str(home),
        "MES_STORAGE_PROJECT": str(PROJECT.path),
        "PATH": ":".join([*map(str, programs), os.environ["PATH"]]),
        # Other tests start servers on the same cores.
        "MES_STORAGE_PROBLEMS_TIMEOUT_SECONDS": "60",
    }
    if not starts_a_platform(pages[0]):
        # The page is about a platform that runs: databases of the pool will do.
        environment["MES_STORAGE_TOPOLOGY"] = str(request.getfixturevalue("topology_path"))
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -e", *commands_of(pages)])],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "sh")], ids=lambda page: page.stem)
def test_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"^make (\w+)", "\n".join(fenced(page, "sh")), flags=re.MULTILINE)
    assert targets
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


async def test_the_ten_lines_of_the_readme_work(topology: Topology, topology_path: Path) -> None:
    async with open_cluster(topology, "directory", role="mes", application_name="test") as directory:
        await Directory(directory.primary, "mes").ensure_map(
            ShardMap.even(["mes_0", "mes_1"], topology.trees["mes"].buckets)
        )
    ring = {"status": Status.SUBMITTED, "channel": Channel.B2B, "summary": "ring", "version": 1}
    async with (
        open_sessions(topology, role="mes", application_name="test") as sessions,
        sessions.write(4711) as session,
    ):
        await session.execute(insert(MesOrder).values(order_id=4711, **ring))
    (snippet,) = fenced(ROOT / "README.md", "python")
    source = "async def main(path, order_id):\n" + textwrap.indent(snippet, "    ") + "    return order\n"
    scope: dict[str, object] = {}
    exec(compile(source, "README.md", "exec"), scope)
    order = await scope["main"](topology_path, 4711)  # type: ignore[operator]
    assert order.summary == "signet ring, engraved"
