"""A command of the warm `mesctl` ends and prints as one of the program does."""

import subprocess
import sys
from pathlib import Path

import pytest

COLD = Path(sys.executable).with_name("mesctl")


@pytest.mark.parametrize("words", [["--help"], ["nonsense"], ["status"], ["migrate", "lint", "--json"]])
def test_a_warm_command_ends_and_prints_as_a_cold_one(
    warm_mesctl: Path, tmp_path: Path, words: list[str]
) -> None:
    warm, cold = (
        subprocess.run(
            [program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        for program in (warm_mesctl, COLD)
    )
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)
    assert warm.stdout or warm.stderr


def test_a_command_has_the_environment_of_its_caller(warm_mesctl: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    said = subprocess.run(
        [warm_mesctl, "doctor"],
        cwd=tmp_path,
        env={"MES_STORAGE_PROJECT": str(missing)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.returncode != 0
    assert str(missing) in said.stderr
