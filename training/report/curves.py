"""Plots of curves: ROC, precision-recall, decision curves, reliability."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from training.report.document import Panel
from training.report.style import INK, QUIET, LineStyle, panel, sheet, square
from training.statistics.confusion import Counts

BAND: Final = 0.13
"""Opacity of an interval's band."""

Array = NDArray[np.float64]
Corner = Literal["lower right", "upper right", "upper left"]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: x and y (n,), a band low..high (n,) where there is one.

    `dots` are marked points (x, y, marker), such as the operating threshold.
    `whiskers` draws the band as error bars.
    """

    label: str
    colour: str
    style: LineStyle
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    dots: tuple[tuple[float, float, str], ...] = ()
    whiskers: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """What a plot shows: its file's name, its title with n, its curves.

    `bounds` are the limits of the y axis; both axes run from 0 to 1 where None.
    `missing` says why there is nothing, where there is nothing.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    alt: str
    lines: Sequence[Line]
    bounds: tuple[float, float] | None = None
    legend: Corner = "lower right"
    missing: str = ""


def roc(plot: Plot) -> Panel:
    """Draw ROC curves as steps, with the diagonal of chance."""
    return _draw(plot, diagonal=True, steps=True)


def precision_recall(plot: Plot, prevalence: float) -> Panel:
    """Draw precision-recall curves as steps, with the precision of treating all."""
    return _draw(plot, level=prevalence, steps=True)


def decision(plot: Plot) -> Panel:
    """Draw net benefit over the threshold probability."""
    return _draw(plot, level=0.0)


def reliability(plot: Plot) -> Panel:
    """Draw observed against predicted, with the diagonal of perfect calibration."""
    return _draw(plot, diagonal=True)


def _draw(
    plot: Plot,
    *,
    diagonal: bool = False,
    level: float | None = None,
    steps: bool = False,
) -> Panel:
    with sheet() as (figure, axes):
        if diagonal:
            axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=(0, (3, 3)))
        if level is not None and plot.bounds is None:
            axes.axhline(level, color=QUIET, linewidth=0.8, linestyle=(0, (3, 3)))
        for line in plot.lines:
            _line(axes, line, steps=steps)
        if plot.bounds is None:
            square(axes)
        else:
            axes.set_xlim(0, 1)
            axes.set_ylim(*plot.bounds)
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        axes.set_title(plot.title, parse_math=False)
        if plot.lines:
            axes.legend(loc=plot.legend, borderaxespad=0.3)
        if plot.missing:
            nothing(axes, plot.missing)
        return panel(figure, plot.name, plot.alt)


def _line(axes: Axes, line: Line, *, steps: bool) -> None:
    if line.low is not None and line.high is not None:
        _band(axes, line, line.low, line.high)
    if len(line.x) > 1:
        axes.plot(
            line.x,
            line.y,
            color=line.colour,
            linestyle=line.style,
            label=line.label,
            drawstyle="steps-post" if steps else "default",
        )
    for n, (x, y, marker) in enumerate(line.dots):
        axes.plot(
            [x],
            [y],
            marker=marker,
            markersize=5.5,
            color=line.colour,
            markeredgecolor="white",
            markeredgewidth=0.7,
            linestyle="none",
            label=line.label if len(line.x) < 2 and not n else None,  # noqa: PLR2004 - a point alone
            zorder=5,
        )


def _band(axes: Axes, line: Line, low: Array, high: Array) -> None:
    if not line.whiskers:
        axes.fill_between(line.x, low, high, color=line.colour, alpha=BAND, linewidth=0)
        return
    axes.vlines(line.x, low, high, color=line.colour, linewidth=0.9, alpha=0.6)
    axes.plot(line.x, line.y, "o", color=line.colour, markersize=3.5)


def nothing(axes: Axes, reason: str) -> None:
    """Say in the middle of a plot why it is empty."""
    axes.text(
        0.5,
        0.5,
        _broken(f"not computable: {reason}"),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=QUIET,
        style="italic",
        parse_math=False,
    )


def _broken(text: str, width: int = 34) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def matrix(name: str, title: str, counts: Counts) -> Panel:
    """Draw a confusion matrix: the more cases, the darker.

    Rows are pathology, columns the model, as shares of their row.
    """
    cells = np.array([[counts.tn, counts.fp], [counts.fn, counts.tp]])
    rows = np.maximum(cells.sum(axis=1, keepdims=True), 1)
    with sheet((2.2, 2.35)) as (figure, axes):
        shades = 0.08 + 0.82 * cells / max(cells.max(), 1)
        axes.imshow(shades, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(cells):
            share = f"\n{count / rows[row, 0]:.1%}" if cells[row].sum() else ""
            axes.text(
                column,
                row,
                f"{count}{share}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if shades[row, column] > 0.55 else INK,  # noqa: PLR2004 - readable on both
            )
        axes.set_xticks([0, 1], ["negative", "positive"])
        axes.set_yticks([0, 1], ["negative", "positive"], rotation=90, va="center")
        axes.set_xlabel("predicted")
        axes.set_ylabel("pathology")
        axes.set_title(title, fontsize=8, loc="left", parse_math=False)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        alt = (
            f"Confusion matrix, {title.replace(chr(10), ', ')}: true positives "
            f"{counts.tp}, false positives {counts.fp}, false negatives {counts.fn}, "
            f"true negatives {counts.tn}."
        )
        return panel(figure, name, alt)
