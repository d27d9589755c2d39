"""The curve of a run for people: a CSV and a picture, from the first epoch on."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.durable import write_whole
from training.loop import Epoch

CURVE_NAME: Final = "curve.csv"
PICTURE_NAME: Final = "curves.png"
COLUMNS: Final = tuple(field.name for field in fields(Epoch))


def write(path: Path, curve: Sequence[Epoch]) -> None:
    """Write one row for each epoch."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(epoch) for epoch in curve)
    write_whole(path, text.getvalue().encode("ascii"), sync=False)


def read(path: Path) -> list[Epoch]:
    """Read a curve; it is empty before the first epoch."""
    try:
        with path.open(newline="", encoding="ascii") as stream:
            return [_epoch(row) for row in csv.DictReader(stream)]
    except OSError:
        return []


def _epoch(row: Mapping[str, str]) -> Epoch:
    return Epoch(
        epoch=int(row["epoch"]),
        rate=float(row["rate"]),
        loss=float(row["loss"]),
        training_auc=float(row["training_auc"]) if row["training_auc"] else None,
        fold_auc=float(row["fold_auc"]) if row["fold_auc"] else None,
        seconds=float(row["seconds"]),
    )


def draw(path: Path, curves: Mapping[str, Sequence[Epoch]]) -> None:
    """Draw the loss and the AUCs of all networks of a run, epoch by epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, (name, curve) in enumerate(curves.items()):
        epochs = [row.epoch for row in curve]
        colour = f"C{number}"
        left.plot(epochs, [row.loss for row in curve], color=colour, label=name)
        right.plot(epochs, [_value(row.training_auc) for row in curve], colour, lw=0.8)
        right.plot(epochs, [_value(row.fold_auc) for row in curve], colour, ls="--")
    left.set(xlabel="epoch", ylabel="loss of the training batches")
    left.legend(fontsize="small", frameon=False)
    right.set(xlabel="epoch", ylabel="AUC", ylim=(0.3, 1.02))
    right.set_title(
        "line: training batches; dashed: the fold left out (to look at, never to "
        "choose by)",
        fontsize=7,
    )
    picture = io.BytesIO()
    canvas.print_png(picture)  # type: ignore[no-untyped-call]  # matplotlib
    write_whole(path, picture.getvalue(), sync=False)


def _value(auc: float | None) -> float:
    return float("nan") if auc is None else auc
