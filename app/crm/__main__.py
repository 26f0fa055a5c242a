"""Run the CRM: `python -m app.crm`."""

from app.crm.application import build
from app.serve import run

if __name__ == "__main__":
    run("crm", build)
