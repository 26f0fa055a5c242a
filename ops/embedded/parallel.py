"""Several things at once."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from ops.embedded.errors import EmbeddedError, SeveralFailed


def run_all(tasks: Iterable[Callable[[], object]]) -> None:
    """Run all tasks at the same time and wait for all, also when one fails; then raise what failed.

    Raises:
        SeveralFailed: several errors of the embedded topology.
    """
    tasks = list(tasks)
    if not tasks:
        return
    with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
        futures = [pool.submit(task) for task in tasks]
    errors = [error for future in futures if (error := future.exception())]
    for error in errors:
        if len(errors) == 1 or not isinstance(error, EmbeddedError):
            raise error
    if errors:
        raise SeveralFailed([error for error in errors if isinstance(error, EmbeddedError)])
