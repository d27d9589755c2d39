"""How every plot looks, and how it becomes the same bytes each time.

The colours are those of Okabe and Ito, which colour-blind eyes tell apart; line styles
tell the same apart in print without colour.
"""

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.report.document import Panel
from training.scores import Kind

COLOURS: Final = {
    Kind.CNN: "#0072B2",
    Kind.RADIOMICS: "#D55E00",
    Kind.CLINICAL: "#009E73",
    Kind.RADIOLOGIST: "#AA4499",
}
LineStyle = str | tuple[int, tuple[float, ...]]

DASHES: Final[dict[Kind, LineStyle]] = {
    Kind.CNN: "-",
    Kind.RADIOMICS: (0, (5, 1.5)),
    Kind.CLINICAL: (0, (1.5, 1.2)),
    Kind.RADIOLOGIST: "-.",
}
INK: Final = "#222222"
QUIET: Final = "#777777"
PANEL: Final = (3.5, 3.3)
"""Inches: the width of a column in print."""

PNG_DPI: Final = 200
CSS_DPI: Final = 96
SETTINGS: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 7.5,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "butt",
    "svg.fonttype": "path",
    "svg.hashsalt": "sentinode",
    "path.simplify": True,
}


def styled() -> AbstractContextManager[None]:
    """Draw in the style of the report while this is open."""
    return mpl.rc_context(rc=SETTINGS)  # type: ignore[arg-type]  # its keys are literals


@contextmanager
def sheet(size: tuple[float, float] = PANEL) -> Iterator[tuple[Figure, Axes]]:
    """Open an empty plot of this size in inches, in the style of the report."""
    with styled():
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()


def panel(figure: Figure, name: str, alt: str) -> Panel:
    """Turn a plot into a panel; called while its `sheet` is open."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # once is enough for both formats
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    width = round(figure.get_size_inches()[0] * CSS_DPI)
    return Panel(name, alt, png.getvalue(), svg.getvalue(), width)


def square(axes: Axes) -> None:
    """Make both axes run from 0 to 1 at equal scale."""
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal", adjustable="box")
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
