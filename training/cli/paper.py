"""`python -m training paper`."""

import json
from collections.abc import Iterator

import click
from rich.console import Console
from rich.table import Table

from training import paper as published
from training.scores import CohortScores
from training.statistics.confusion import Counts, Metric, count, percent, rates
from training.statistics.strategy import error_rates, surgery

RATES = (Metric.ACCURACY, Metric.SENSITIVITY, Metric.SPECIFICITY)

Line = dict[str, str | float | int]


@click.command("paper")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def paper(as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Recompute the paper's rows from its recovered counts, beside those printed.

    Example: python -m training paper --json
    """
    clinical, fig_4 = list(_clinical()), list(_figure_4())
    impossible = [
        {"table": each.table, "row": each.row, "rule": each.rule, "why": each.why}
        for each in published.impossible()
    ]
    if as_json:
        whole = {"clinical": clinical, "figure_4": fig_4, "impossible": impossible}
        click.echo(json.dumps(whole, indent=2, ensure_ascii=False))
        return
    console = Console(width=120)
    _print(console, "Clinical model, SLN (Table 2), threshold 0.5", clinical)
    _print(console, "Radiologists' MRI reports, SLN (Fig. 4)", fig_4)
    click.echo("Numbers of the paper that cannot all hold:")
    for each in impossible:
        click.echo(f"* {each['table']}, {each['row']}: {each['why']}")


def _clinical() -> Iterator[Line]:
    printed = published.TABLE_2["Clinical model"]
    for scores, values in zip(published.clinical(), printed, strict=True):
        found = rates(_counts(scores))
        for metric, value in zip(RATES, values[1:], strict=True):
            yield {
                "cohort": scores.cohort,
                "rate": metric,
                "printed": value,
                "recomputed (95% CI) k/n": percent(found[metric]),
            }


def _figure_4() -> Iterator[Line]:
    counts = _counts(published.radiologists())
    printed = {"FDR": "77.9 as 'FPR'", "FOR": "18.6 as 'FNR'"}
    for each in error_rates(counts):
        yield {
            "rate": each.label,
            "formula": each.formula,
            "printed": printed.get(each.label[:3], "-"),
            "recomputed (95% CI) k/n": percent(each.proportion),
        }
    done = surgery(counts)
    yield {
        "rate": "SLND avoided by MRI reports",
        "formula": "FN + TN",
        "printed": "-",
        "recomputed (95% CI) k/n": f"{done.avoided}/{done.everyone}, {done.missed} "
        f"with metastasis; {done.needless} needless remain",
    }


def _counts(scores: CohortScores) -> Counts:
    return count(scores.labels, scores.probabilities, published.THRESHOLD)


def _print(console: Console, title: str, lines: list[Line]) -> None:
    table = Table(title=title, title_justify="left")
    for name in lines[0]:
        table.add_column(name)
    for line in lines:
        table.add_row(*(str(value) for value in line.values()))
    console.print(table)
