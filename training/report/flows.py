"""Figures 1, 2 and 4: who was included, the cascade, and who is sent to surgery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from training.report.diagrams import BLUE, GREEN, GREY, ORANGE, Diagram, Node, draw
from training.report.document import Panel
from training.statistics.confusion import Counts
from training.statistics.strategy import Cascade

WIDTH: Final = 7.3
"""Inches: the width of an A4 page between its margins."""


@dataclass(frozen=True, slots=True)
class CohortFlow:
    """One cohort at the foot of the flow of inclusion.

    `sln` and `nsln` count positive, negative and unknown; those of NSLN are of the
    SLN-positive patients.
    """

    name: str
    centres: str
    n: int
    sln: tuple[int, int, int]
    nsln: tuple[int, int, int]


def inclusion(
    cohorts: Sequence[CohortFlow], considered: int, excluded: Mapping[str, int] | None
) -> Panel:
    """Draw the flow of inclusion: considered, excluded and why, and the cohorts.

    `excluded` is None where nobody knows it.
    """
    included = sum(one.n for one in cohorts)
    reasons = _reasons(excluded)
    tall = 0.2 + 0.18 * len(reasons)
    columns = min(len(cohorts), 4)
    lines = -(-len(cohorts) // columns)
    foot, gap = 1.35, 0.3
    height = 0.3 + 0.55 + tall + 0.75 + lines * (foot + gap) + 0.1
    top = height - 0.4
    middle = top - 0.35 - tall / 2
    joint = top - 0.35 - tall - 0.4
    out = Node(WIDTH * 0.74, middle, 3.6, tall, "\n".join(reasons), ORANGE)
    start = Node(WIDTH * 0.3, top, 2.9, 0.45, f"Cases considered\nn = {considered}")
    kept = Node(WIDTH * 0.3, joint, 2.9, 0.45, f"Included\nn = {included}", BLUE)
    via = Node(WIDTH * 0.3, middle, 0.001, 0.001, "")
    nodes = {"start": start, "via": via, "out": out, "kept": kept}
    arrows = [("start", "kept", ""), ("via", "out", "")]
    wide = (WIDTH - 0.2) / columns
    for n, one in enumerate(cohorts):
        x = 0.1 + wide * (n % columns + 0.5)
        y = joint - 0.25 - gap - foot / 2 - (n // columns) * (foot + gap)
        nodes[one.name] = Node(x, y, wide - 0.12, foot, _foot(one), GREEN)
        if n < columns:
            arrows.append(("kept", one.name, ""))
    alt = (
        f"Flow of inclusion: {considered} considered, {included} included; "
        + "; ".join(f"{one.name} {one.n}" for one in cohorts)
    )
    return draw(Diagram((WIDTH, height), nodes, arrows), "flow", alt)


def _reasons(excluded: Mapping[str, int] | None) -> list[str]:
    if excluded is None:
        return ["Excluded: unknown,", "the snapshot was not given"]
    reasons = [f"{reason}: {n}" for reason, n in excluded.items()]
    return [f"Excluded: n = {sum(excluded.values())}", *reasons]


def _foot(one: CohortFlow) -> str:
    positive, negative, unknown = one.sln
    spread, spared, unlabelled = one.nsln
    return (
        f"{one.name}\n{one.centres}, n = {one.n}\n"
        f"SLN+ {positive}, SLN\N{MINUS SIGN} {negative}\nSLN unknown {unknown}\n"
        f"of SLN+: NSLN+ {spread},\nNSLN\N{MINUS SIGN} {spared}, unknown {unlabelled}"
    )


def cascade(counts: Cascade, *, staged: bool) -> Panel:
    """Draw the cascade from image to surgery, with the counts of each station.

    `staged` is False where stage II has no scores; then its boxes say so.
    """
    low, high = counts.low_negative + counts.low_positive, counts.n
    high -= low
    positive = high - counts.slnd_negative
    two = counts.alnd
    spared = (two.low, two.fn) if staged else None
    dissected = (two.high, two.tp) if staged else None
    unstaged = f"\nno NSLN label or score: {counts.unstaged}" if counts.unstaged else ""
    image = "DCE-MRI slice, rectangle\n70 \N{MULTIPLICATION SIGN} 70 pixels\n"
    nodes = {
        "image": Node(1.1, 4.2, 1.9, 0.62, f"{image}n = {counts.n}", GREY),
        "one": Node(3.65, 4.2, 1.7, 0.5, "ResNet18-I\nrisk of SLN metastasis", BLUE),
        "low": Node(
            6.1,
            4.2,
            2.1,
            0.62,
            (
                f"SLN low risk: n = {low}\n(pathology: SLN+ {counts.low_positive})\nno "
                "SLND"
            ),
            GREEN,
        ),
        "high": Node(
            3.65, 3.1, 2.2, 0.5, f"SLN high risk: n = {high}\nSLND recommended", ORANGE
        ),
        "negative": Node(
            6.1,
            3.1,
            2.1,
            0.5,
            f"SLND negative: n = {counts.slnd_negative}\nno ALND",
            GREEN,
        ),
        "positive": Node(
            3.65, 2.1, 2.2, 0.5, f"SLND positive: n = {positive}{unstaged}", ORANGE
        ),
        "two": Node(3.65, 1.25, 1.8, 0.5, "ResNet18-II\nrisk of NSLN metastasis", BLUE),
        "spared": Node(
            1.7,
            0.4,
            2.6,
            0.62,
            _second("NSLN low risk", spared, "SLND without ALND"),
            GREEN,
        ),
        "dissected": Node(
            5.6,
            0.4,
            2.6,
            0.62,
            _second("NSLN high risk", dissected, "ALND recommended"),
            ORANGE,
        ),
    }
    arrows = [
        ("image", "one", ""),
        ("one", "low", ""),
        ("one", "high", ""),
        ("high", "negative", ""),
        ("high", "positive", ""),
        ("positive", "two", ""),
        ("two", "spared", ""),
        ("two", "dissected", ""),
    ]
    alt = (
        f"Cascade: of {counts.n} patients {low} are SLN low risk and {high} SLN high "
        f"risk; of these {positive} are SLND positive."
    )
    return draw(Diagram((WIDTH, 4.65), nodes, arrows), "overview", alt)


def _second(name: str, counts: tuple[int, int] | None, advice: str) -> str:
    if counts is None:
        return f"{name}: no scores\n{advice}"
    return f"{name}: n = {counts[0]}\n(pathology: NSLN+ {counts[1]})\n{advice}"


def recommendation(name: str, title: str, counts: Counts) -> Panel:
    """Draw who is sent to SLND by one reader."""
    tp, fp, fn, tn = counts.tp, counts.fp, counts.fn, counts.tn
    called, spared = counts.high, counts.low
    nodes = {
        "all": Node(1.8, 3.35, 3.3, 0.6, f"{title}\nn = {called + spared}", BLUE),
        "yes": Node(0.92, 2.4, 1.65, 0.62, f"SLND recommended\nn = {called}", ORANGE),
        "no": Node(
            2.68, 2.4, 1.65, 0.62, f"SLND not\nrecommended\nn = {spared}", GREEN
        ),
        "tp": Node(0.48, 1.4, 0.78, 0.62, f"SLN+\n{tp}\nfound"),
        "fp": Node(1.36, 1.4, 0.78, 0.62, f"SLN\N{MINUS SIGN}\n{fp}\nneedless", GREY),
        "fn": Node(2.24, 1.4, 0.78, 0.62, f"SLN+\n{fn}\nmissed", GREY),
        "tn": Node(3.12, 1.4, 0.78, 0.62, f"SLN\N{MINUS SIGN}\n{tn}\navoided"),
        "fdr": Node(
            0.92,
            0.55,
            1.65,
            0.62,
            (
                f"FDR = FP/(TP+FP)\n{fp}/{called}{_rate(fp, called)}\npaper: "
                "\u201cFPR\u201d"
            ),
            ORANGE,
        ),
        "for": Node(
            2.68,
            0.55,
            1.65,
            0.62,
            (
                f"FOR = FN/(FN+TN)\n{fn}/{spared}{_rate(fn, spared)}\npaper: "
                "\u201cFNR\u201d"
            ),
            GREEN,
        ),
    }
    arrows = [
        ("all", "yes", ""),
        ("all", "no", ""),
        ("yes", "tp", ""),
        ("yes", "fp", ""),
        ("no", "fn", ""),
        ("no", "tn", ""),
    ]
    alt = (
        f"{title}: SLND recommended for {called} ({tp} SLN positive, {fp} negative), "
        f"not recommended for {spared} ({fn} positive, {tn} negative)."
    )
    return draw(Diagram((3.6, 3.7), nodes, arrows), name, alt)


def _rate(k: int, n: int) -> str:
    return f" = {k / n:.1%}" if n else ""
