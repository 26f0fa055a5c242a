"""Run the MES as the load test wants it: `python -m tests.load.fixed_mes`.

With `LOAD_FIXED_REQUESTS=N` it works on at most N requests at once, whatever it measures; its queue and
priorities stay as they are. Without, it is the MES as it is.
"""

import os
import time

from fastapi import FastAPI

from app.flow.limiter import AdaptiveLimiter, LimitOptions
from app.flow.shedding import Admission
from app.mes.application import build
from app.serve import run
from app.settings import Settings
from sharding.topology import Topology

FIXED_REQUESTS = "LOAD_FIXED_REQUESTS"


def build_limited(settings: Settings, topology: Topology) -> FastAPI:
    """Build the MES, with a fixed limit if there is to be one."""
    app = build(settings, topology)
    if fixed := int(os.environ.get(FIXED_REQUESTS, "0")):
        admission: Admission = app.state.admission
        options = LimitOptions(floor=fixed, initial=fixed, most=fixed)
        admission.limiter = AdaptiveLimiter(options, clock=time.monotonic)
    return app


if __name__ == "__main__":
    run("mes", build_limited)
