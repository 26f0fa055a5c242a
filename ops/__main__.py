"""The program `mesctl`: it starts the command line, or says in one line what it lacks for that.

Nothing of `ops` is imported here before `own_package` has been called.
"""

import gc
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

USAGE = 2

GARBAGE_AFTER = 50_000
"""After how many more objects Python looks for garbage; its own figure is 700."""


def own_package() -> None:
    """Let `ops` be the folder of this file: a team's own `ops` may come first on sys.path."""
    folder = str(Path(__file__).parent)
    found = sys.modules.get("ops")
    if found is None or list(found.__path__) != [folder]:
        sys.modules["ops"] = package = ModuleType("ops")
        package.__spec__ = ModuleSpec("ops", None, is_package=True)
        package.__path__ = package.__spec__.submodule_search_locations = [folder]


def main() -> None:
    """Run `mesctl`; where a package that it needs is missing, say how it is installed."""
    own_package()
    # Importing makes hundreds of thousands of objects and no garbage; each search for some costs CPU.
    gc.set_threshold(GARBAGE_AFTER, *gc.get_threshold()[1:])
    try:
        from ops import cli
    except ModuleNotFoundError as fault:
        if (fault.name or "").partition(".")[0] in {"ops", "sharding", "partitions", "readreplica"}:
            raise
        print(
            f"mesctl: the package {fault.name!r} is missing: pip install mesctl",
            file=sys.stderr,
        )
        sys.exit(USAGE)
    cli.main()


if __name__ == "__main__":
    main()
