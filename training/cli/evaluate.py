"""`python -m training evaluate`."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from training import card, scores, snapshot
from training.durable import whole_folder
from training.evaluation import (
    Subject,
    count,
    evaluate,
    subject,
    subjects,
)
from training.scores import Evaluation
from worker import models

FOLDER = click.Path(path_type=Path)


@click.command("evaluate")
@click.option("--cohort", "folder", type=FOLDER, required=True)
@click.option("--models", "store", type=FOLDER, help="Folder of models and runs.")
@click.option(
    "--run", "run_folders", type=FOLDER, multiple=True, help="One run for each stage."
)
@click.option("--out", type=FOLDER, required=True, help="New or empty folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate_command(
    folder: Path,
    store: Path | None,
    run_folders: tuple[Path, ...],
    out: Path,
    *,
    as_json: bool,
) -> None:
    """Score every case of a cohort by every model, for `report` and `compare`.

    Example: python -m training evaluate --cohort /tmp/phantom --models models
    --out evaluation
    """
    if (store is None) == (not run_folders):
        raise click.UsageError("give either --models or --run")
    given = subjects(store) if store else tuple(map(subject, run_folders))
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: an evaluation is not written over")
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("Reading cases", total=snapshot.count(folder))
        cohort = snapshot.load(folder, lambda: progress.advance(bar))
        bar = progress.add_task("Scoring", total=count(cohort, given))
        found = evaluate(
            cohort, given, lambda: progress.advance(bar), progress.console.print
        )
    with whole_folder(out) as draft:
        scores.write(draft, found)
        _write_cards(draft, given, found)
    rows = list(_rows(found))
    if as_json:
        click.echo(json.dumps({"evaluation": str(out), "scores": rows}, indent=2))
        return
    for row in rows:
        click.echo(_line(row))
    click.echo(out)


def _rows(found: Evaluation) -> Iterator[dict[str, str | int | float | None]]:
    for model in found.models:
        for part in model.cohorts:
            area = card.area_of(part)
            yield {
                "model": model.about.model,
                "stage": model.about.stage.value,
                "cohort": part.cohort,
                "n": len(part),
                "positives": int(part.labels.sum()),
                "auc": area.value if area else None,
                "auc_low": area.low if area else None,
                "auc_high": area.high if area else None,
            }


def _line(row: dict[str, str | int | float | None]) -> str:
    head = f"{row['stage']} {row['model']}, {row['cohort']}: "
    counts = f"n = {row['n']}, {row['positives']} positive"
    if row["auc"] is None:
        return f"{head}too few of a class for an AUC ({counts})"
    return (
        f"{head}AUC {row['auc']:.3f} (95% CI {row['auc_low']:.3f}-"
        f"{row['auc_high']:.3f}, {counts})"
    )


def _write_cards(out: Path, given: tuple[Subject, ...], found: Evaluation) -> None:
    """Write the card of each network with what it does in every cohort."""
    networks = {one.about.weights_sha256: one for one in found.models}
    for each in given:
        measured = networks[each.manifest.weights_sha256].cohorts
        text = card.with_cohorts(models.card(each.model), measured)
        path = out / f"MODEL_CARD-{each.manifest.stage.lower()}.md"
        path.write_text(text, encoding="utf-8")
