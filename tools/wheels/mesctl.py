"""Runs `mesctl`: the package `ops` that is installed beside this file, whatever else has that name.

This is the module `mesctl` of the wheel. A team's own `ops` may come first on PYTHONPATH, or share the folder
of installed packages.
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> None:
    """Run `mesctl` with the arguments of this process, and exit."""
    spec = spec_from_file_location("mesctl_main", Path(__file__).with_name("ops") / "__main__.py")
    if spec is None or spec.loader is None:
        raise SystemExit("mesctl: its package is missing: pip install --force-reinstall mesctl")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()


if __name__ == "__main__":
    main()
