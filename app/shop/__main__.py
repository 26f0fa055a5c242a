"""Run the Shop: `python -m app.shop`."""

from app.serve import run
from app.shop.application import build

if __name__ == "__main__":
    run("shop", build)
