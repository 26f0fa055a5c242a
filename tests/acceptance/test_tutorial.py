"""docs/tutorial.md is followed in an empty folder: its files are written, its commands are typed."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.embedded.platform import Platform
from ops.ports import PortPicker
from ops.project.project import Project
from tests.acceptance.test_docs import ROOT

_BLOCK = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```', re.M | re.S)
_PORT = re.compile(r"\b55\d\d\b")


def script_of(page: str) -> str:
    """Return what a reader does: a file is written where its block stands, a command is typed."""
    lines = ["set -e"]
    for block in _BLOCK.finditer(page):
        if block["title"]:
            lines += [f"cat > {block['title']} <<'END OF FILE'", block["text"] + "END OF FILE"]
        else:
            lines += [line[2:] for line in block["text"].splitlines() if line.startswith("$ ")]
    return "\n".join(lines)


def with_free_ports(page: str) -> str:
    """Return the page with other ports, for those that it names may be taken."""
    picker = PortPicker(random.Random())
    ports = {port: str(picker.pick()) for port in sorted(set(_PORT.findall(page)))}
    return _PORT.sub(lambda found: ports[found[0]], page)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; what the tutorial has left running in it at the end is stopped."""
    yield tmp_path
    project = tmp_path / "payments" / "mes-storage.toml"
    if project.exists():
        Platform(project.parent / ".platform", Project.load(project)).delete()


@pytest.mark.long
def test_a_reader_gets_two_shards_and_a_replica(folder: Path, warm_mesctl: Path) -> None:
    page = with_free_ports((ROOT / "docs" / "tutorial.md").read_text())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MES_STORAGE_")}
    programs = (warm_mesctl.parent, Path(sys.executable).parent)
    done = subprocess.run(
        ["bash", "-c", script_of(page)],
        env=environment | {"PATH": ":".join([*map(str, programs), os.environ["PATH"]])},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for words in re.findall(r"^It prints (.*?)[.:]", page, re.MULTILINE | re.DOTALL):
        for printed in re.findall(r"`(.+?)`", words):
            assert printed in done.stdout, done.stdout
    assert not (folder / "payments" / ".platform").exists()
