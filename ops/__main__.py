"""The program `mesctl`: it starts the command line, or says in one line what it lacks for that."""

import sys

USAGE = 2


def main() -> None:
    """Run `mesctl`; where a package of its extra is missing, say how it is installed."""
    try:
        from ops import cli
    except ModuleNotFoundError as fault:
        if (fault.name or "").partition(".")[0] in {"ops", "sharding", "partitions", "readreplica"}:
            raise
        print(
            f"mesctl: the package {fault.name!r} is missing: install the extra, "
            "`pip install 'mes-storage[ops]'`",
            file=sys.stderr,
        )
        sys.exit(USAGE)
    cli.main()


if __name__ == "__main__":
    main()
