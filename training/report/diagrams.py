"""Boxes and arrows: the flow of inclusion, the cascade, and who is sent to surgery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from training.report.document import Panel
from training.report.style import INK, panel, sheet

PLAIN: Final = "#FFFFFF"
BLUE: Final = "#E3EEF8"
ORANGE: Final = "#FBE9DC"
GREEN: Final = "#E2F1EA"
GREY: Final = "#F1F1F1"


@dataclass(frozen=True, slots=True)
class Node:
    """A box of a diagram: its middle and size in inches, its text and its fill."""

    x: float
    y: float
    width: float
    height: float
    text: str
    fill: str = PLAIN

    def edge(self, towards: "Node") -> tuple[float, float]:
        """Return where an arrow towards another box leaves this one."""
        if abs(self.y - towards.y) < (self.height + towards.height) / 2:
            side = 1 if towards.x > self.x else -1
            return self.x + side * self.width / 2, self.y
        side = 1 if towards.y > self.y else -1
        return self.x, self.y + side * self.height / 2


@dataclass(frozen=True, slots=True)
class Diagram:
    """Boxes by name and arrows between them; an arrow may carry a word."""

    size: tuple[float, float]
    nodes: Mapping[str, Node]
    arrows: Sequence[tuple[str, str, str]]


def draw(diagram: Diagram, name: str, alt: str) -> Panel:
    """Draw a diagram as a panel."""
    width, height = diagram.size
    with sheet(diagram.size) as (figure, axes):
        figure.set_layout_engine("none")
        axes.set_position((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(0, height)
        axes.axis("off")
        for source, target, word in diagram.arrows:
            _arrow(axes, diagram.nodes[source], diagram.nodes[target], word)
        for node in diagram.nodes.values():
            if node.text:  # one without is a joint of arrows
                _box(axes, node)
        return panel(figure, name, alt)


def _box(axes: Axes, node: Node) -> None:
    corner = (node.x - node.width / 2, node.y - node.height / 2)
    axes.add_patch(
        FancyBboxPatch(
            corner,
            node.width,
            node.height,
            boxstyle="round,pad=0,rounding_size=0.05",
            facecolor=node.fill,
            edgecolor=INK,
            linewidth=0.9,
        )
    )
    axes.text(
        node.x,
        node.y,
        node.text,
        ha="center",
        va="center",
        fontsize=8,
        linespacing=1.35,
        parse_math=False,
    )


def _arrow(axes: Axes, source: Node, target: Node, word: str) -> None:
    """Draw an arrow with right angles: down, across, down."""
    start, end = source.edge(target), target.edge(source)
    level = abs(source.y - target.y) < (source.height + target.height) / 2
    bend = (start[1] + end[1]) / 2
    if level or start[0] == end[0]:
        points = [start, end]
    else:
        points = [start, (start[0], bend), (end[0], bend), end]
    axes.plot(*zip(*points[:-1], strict=True), color=INK, linewidth=0.9, zorder=0)
    axes.annotate(
        "",
        xy=end,
        xytext=points[-2],
        arrowprops={
            "arrowstyle": "-|>",
            "color": INK,
            "linewidth": 0.9,
            "shrinkA": 0,
            "shrinkB": 0,
            "mutation_scale": 9,
        },
        zorder=0,
    )
    if word:
        at = (end[0], bend) if not level else ((start[0] + end[0]) / 2, start[1])
        axes.text(
            *at,
            word,
            fontsize=7.5,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
