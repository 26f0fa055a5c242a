"""`python -m tools.wheels --out DIR`: build the wheels, each from a staging folder of its own."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.wheels.staging import WHEELS, Wheel, stage

ROOT = Path(__file__).parents[2]
# Not isolated: setuptools is a locked dependency, and a build needs no network.
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"


def build(wheels: Sequence[Wheel], *, root: Path, out: Path) -> list[Path]:
    """Build wheels into a folder; return their files.

    Raises:
        subprocess.CalledProcessError: setuptools has failed; its output was shown.
    """
    out.mkdir(parents=True, exist_ok=True)
    built = []
    with TemporaryDirectory() as staging:
        for wheel in wheels:
            folder = Path(staging, wheel.name)
            stage(wheel, root, folder)
            done = subprocess.run(
                [sys.executable, "-c", BUILD, str(out.resolve())],
                cwd=folder,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            built.append(out / done.stdout.split()[-1])
    return built


def main() -> None:
    """Build all of them, and print their files."""
    parser = argparse.ArgumentParser(prog="make wheels", description="Build the wheels that are published.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "wheels", help="the folder for them")
    for path in build(WHEELS, root=ROOT, out=parser.parse_args().out):
        print(path)


if __name__ == "__main__":
    main()
