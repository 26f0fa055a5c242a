"""The real psql, for whatever claims that psql accepts it."""

import subprocess

from ops.embedded.programs import postgres_bin


def psql(conninfo: str, script: str) -> str:
    """Run a script from standard input and stop at its first error; give what psql printed.

    Raises:
        CalledProcessError: psql refused the script; `stderr` says why.
    """
    program = str(postgres_bin() / "psql")
    command = [program, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", conninfo]
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=True, timeout=60)
    return done.stdout
