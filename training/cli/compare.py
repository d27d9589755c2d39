"""`python -m training compare`."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from training import registry
from training.cli.site import (
    decision,
    json_option,
    print_json,
    read_snapshot,
    site_options,
)
from training.gate import Report, Scope
from training.site import Site

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("compare")
@click.argument("challenger", metavar="CHALLENGER")
@click.option("--against", metavar="CHAMPION", help="Default: what serves now.")
@click.option("--cohort", type=FOLDER, required=True, help="Snapshot with a holdout.")
@json_option
@site_options
def compare(
    site: Site, challenger: str, against: str | None, cohort: Path, *, as_json: bool
) -> None:
    """Judge a candidate against the champion on the same held-out cases.

    Both are NAME@VERSION. The report is stored; `promote` reads it. Each comparison
    is counted: a holdout that is looked at often says less every time. Exit codes: 0
    it was compared, whatever came of it; 3 no such model.

    Example: python -m training compare resnet18-sln@V2 --cohort snapshot --data-dir D
    """
    data = read_snapshot(cohort)
    report = registry.compare(site, challenger, against, data, decision())
    if as_json:
        print_json(report.document())
    else:
        _print(report)


def _print(report: Report) -> None:
    console = Console()
    table = Table(
        title=f"{report.challenger} against {report.champion or 'nobody'}, stage "
        f"{report.stage}, n = {report.n} ({report.positives} positive), look "
        f"{report.looks} - RESEARCH USE ONLY",
        title_justify="left",
    )
    for column in ("", "check", "forbids", "what was found"):
        table.add_column(column, overflow="fold")
    for check in report.checks:
        forbids = "" if check.holds else _forbids(check.scope)
        table.add_row(
            "yes" if check.holds else "NO", check.code, forbids, check.sentence
        )
    console.print(table)
    power = Table(
        title="Power to show an equal model not worse, by the size of the holdout "
        f"(margin {report.policy.margin:g}, one-sided {report.policy.alpha:g})",
        title_justify="left",
    )
    for column in ("n", "positive", "power"):
        power.add_column(column, justify="right")
    for row in report.power:
        power.add_row(str(row.n), str(row.positives), f"{row.power:.0%}")
    console.print(power)
    said = "may be promoted" if report.promotable else "is not to be promoted"
    alone = ", without a person too" if report.automatic else ""
    console.print(f"{report.challenger} {said}{alone}")


def _forbids(scope: Scope) -> str:
    return "any promotion" if scope is Scope.ANY else "one without a person"
