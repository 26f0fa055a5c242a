"""How hard it is to find one's way in the code: the counts of `tools.house`, each against its limit."""

from tests.benchmarks.harness import Measured, benchmark
from tools.house import counts_of, read_modules


@benchmark(name="house", target=0, unit="counts above their limit")
def house() -> Measured:
    """Count modules, functions, class names, cycles, concepts and wording of the packages that ship."""
    counts = counts_of(read_modules())
    detail = "; ".join(f"{name} {count:g} (at most {limit:g})" for name, (count, limit) in counts.items())
    return Measured(sum(count > limit for count, limit in counts.values()), detail)
