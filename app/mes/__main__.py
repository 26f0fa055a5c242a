"""Run the MES: `python -m app.mes`."""

from app.mes.application import build
from app.serve import run

if __name__ == "__main__":
    run("mes", build)
