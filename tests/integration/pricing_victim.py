"""A process that measures a file until it is killed: `python -m tests.integration.pricing_victim FILE`."""

import asyncio
import sys
from pathlib import Path

from app.pricing.sandbox import Sandbox


async def main(path: Path) -> None:
    """Measure one file."""
    async with Sandbox() as sandbox:
        await sandbox.measure(path, suffix=path.suffix.removeprefix("."))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
