"""How far off a forecast is: growth of a real database, of which the last days are held back."""

from tests.benchmarks.harness import Measured, benchmark, platform
from tests.integration.forecast_growth import Prediction, grow


@benchmark(name="forecast_error", target=0.2, unit="share of the time until the date")
def forecast_error() -> Measured:
    """Orders come unevenly, by day more than by night; orders, rows and bytes are foreseen two days ahead."""
    found = [prediction for seed in (1, 2) for prediction in _grown(seed)]
    worst = max(found, key=lambda each: each.error)
    detail = "; ".join(
        f"{each.metric} {each.predicted_hours:.1f} h for {each.actual_hours:.0f} h" for each in found
    )
    return Measured(round(worst.error, 3), detail)


def _grown(seed: int) -> list[Prediction]:
    with platform() as topology:
        return grow(topology, orders_an_hour=100, every_hours=1, seed=seed)
