"""Run the board: `python -m app.board`."""

from app.board.application import build
from app.serve import run

if __name__ == "__main__":
    run("board", build)
