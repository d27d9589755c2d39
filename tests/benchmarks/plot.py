"""Every target in one picture: how far each figure is from its bound."""

from pathlib import Path

from matplotlib.figure import Figure

from tests.benchmarks.measuring import Line

REACHED, MISSED = "#1f7a4d", "#b3541e"


def draw(lines: list[Line], path: Path) -> None:
    """Draw the figures that have a target; right of 1 it is reached."""
    shown = [line for line in lines if line.wanted][::-1]
    figure = Figure(figsize=(10, 0.45 * len(shown) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    for place, line in enumerate(shown):
        goal = line.wanted or 1.0
        times = line.value / goal if line.at_least else goal / line.value
        colour = REACHED if line.reached else MISSED
        axes.plot([1, times], [place, place], color=colour, linewidth=2)
        axes.plot(times, place, "o", color=colour)
        unit = "x" if line.theirs else f" {line.unit}"
        text = f"{line.value:.3g}{unit} ({line.bound})"
        axes.annotate(text, (times, place), (8, 6), textcoords="offset points")
    axes.axvline(1, color="#555555", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda times, _: f"{times:g}")
    axes.set_yticks(range(len(shown)), [_name(line) for line in shown])
    axes.set_xlabel("times better than its target (1: just reached)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.45)
    figure.savefig(path, dpi=120)


def _name(line: Line) -> str:
    against = f" / {line.against}" if line.against else ""
    return f"{line.target}  {line.what}{against}"
