"""The report of a load test as one HTML file: tables, and plots as SVG in it; nothing from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tests.load.arrivals import Answer, Kind, Outcome, percentile

WIDTH, HEIGHT, LEFT = 640, 160, 50
COLOURS = ("#1565c0", "#c62828", "#2e7d32", "#ef6c00")
Series = Mapping[str, Sequence[tuple[float, float]]]


def plot(title: str, series: Series, *, unit: str) -> str:
    """Draw lines over time as SVG. Pure."""
    points = [point for line in series.values() for point in line]
    width = max((x for x, _ in points), default=1) or 1
    height = max((y for _, y in points), default=1) or 1
    lines = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="'
        + " ".join(
            f"{LEFT + x / width * WIDTH:.1f},{HEIGHT - y / height * (HEIGHT - 10):.1f}" for x, y in line
        )
        + '"/>'
        for line, colour in zip(series.values(), COLOURS, strict=False)
    ]
    legend = [
        f'<text x="{LEFT + 10 + 150 * number}" y="{HEIGHT + 30}" fill="{colour}">{escape(name)}</text>'
        for number, (name, colour) in enumerate(zip(series, COLOURS, strict=False))
    ]
    axis = f'<path d="M{LEFT} 5V{HEIGHT}H{LEFT + WIDTH}" fill="none" stroke="#888"/>'
    marks = f'<text x="2" y="15">{height:.3g}</text><text x="2" y="{HEIGHT}">0 {escape(unit)}</text>'
    marks += f'<text x="{LEFT + WIDTH - 40}" y="{HEIGHT + 15}">{width:.0f} s</text>'
    drawn = "".join([axis, marks, *lines, *legend])
    size = f"0 0 {LEFT + WIDTH + 10} {HEIGHT + 40}"
    return f'<h3>{escape(title)}</h3><svg viewBox="{size}" width="{LEFT + WIDTH}" role="img">{drawn}</svg>'


def plots_of(outcome: Outcome) -> str:
    """Draw a run: what came and what was done in time, the latency, and what was refused, by the second."""
    seconds = range(int(outcome.seconds) + 1)
    by_second: list[list[Answer]] = [[] for _ in seconds]
    for answer in outcome.answers:
        by_second[int(answer.at_seconds)].append(answer)

    def line(value: Any) -> list[tuple[float, float]]:
        return [
            (float(second), float(value(answers))) for second, answers in zip(seconds, by_second, strict=True)
        ]

    def latency(percent: int) -> Any:
        return lambda answers: percentile([each.seconds for each in answers if each.is_admitted], percent)

    def refused(kind: Kind) -> Any:
        return lambda answers: sum(each.is_refused and each.kind is kind for each in answers)

    return (
        plot(
            "Requests in a second",
            {
                "arrived": line(len),
                "done in time": line(lambda answers: sum(each.is_good for each in answers)),
            },
            unit="/s",
        )
        + plot(
            "Latency of what was admitted", {"median": line(latency(50)), "p99": line(latency(99))}, unit="s"
        )
        + plot("Refused in a second", {kind.value: line(refused(kind)) for kind in Kind}, unit="/s")
    )


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Make a table of rows that have the same names."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row.values()) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))


def page(title: str, *parts: str) -> str:
    """Put the page together."""
    style = "body{font:14px sans-serif;margin:2em}td,th{padding:2px 10px;text-align:right}"
    style += "svg text{font-size:11px}"
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style>'
    body = f"<h1>{escape(title)}</h1>{''.join(parts)}"
    return f"<!doctype html><html><head>{head}</head><body>{body}</body></html>\n"
