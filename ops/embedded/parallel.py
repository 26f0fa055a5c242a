"""Several things at once."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor


def run_all(tasks: Iterable[Callable[[], object]]) -> None:
    """Run all tasks at the same time and wait for all, also when one fails; then raise the first error."""
    tasks = list(tasks)
    if not tasks:
        return
    with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
        futures = [pool.submit(task) for task in tasks]
    for future in futures:
        future.result()
