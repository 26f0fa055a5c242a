"""How much of the list of alerts promtool proves: on series where each must fire, and where it must not."""

import shutil
import tempfile
from pathlib import Path

from tests.alert_cases import CASES, REQUIRED, RULES, run_promtool, write_cases
from tests.benchmarks.harness import CannotRun, Measured, benchmark


@benchmark(name="alerts_tested", target=1, better="higher", unit="share of the alerts")
def alerts_tested() -> Measured:
    """Evaluate both cases of each alert."""
    promtool = shutil.which("promtool")
    if promtool is None:
        raise CannotRun("promtool is not here: apt-get install prometheus")
    failed: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for case, file in zip(CASES, write_cases(Path(folder)), strict=True):
            if run_promtool(Path(promtool), file):
                failed.add(case.alert)
    must = {alert.name for alert in RULES.every_alert() if alert.severity != "none"} | set(REQUIRED)
    proved = set(REQUIRED) - failed
    return Measured(
        len(proved & must) / len(must), f"{len(proved)} of {len(must)} alerts, {len(CASES)} cases"
    )
