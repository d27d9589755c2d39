"""STARD 2015, TRIPOD+AI and CLAIM 2024 as lists of where the report answers what."""

import csv
from importlib.resources import files
from typing import Final

from training.report.document import Checklist, Item

GUIDELINES: Final = {
    "stard-2015": (
        "STARD 2015",
        "Bossuyt et al., BMJ 2015;351:h5527; 30 items.",
    ),
    "tripod-ai": (
        "TRIPOD+AI",
        "Collins et al., BMJ 2024;385:e078378; 27 items.",
    ),
    "claim-2024": (
        "CLAIM 2024",
        "Tejani et al., Radiology: Artificial Intelligence 2024;6:e240300; 44 items.",
    ),
}


def load() -> tuple[Checklist, ...]:
    """Read the three guidelines, in the order in which they are printed."""
    return tuple(
        Checklist(key, title, source, _items(key))
        for key, (title, source) in GUIDELINES.items()
    )


def _items(key: str) -> tuple[Item, ...]:
    path = files("training.report").joinpath("checklists", f"{key}.csv")
    rows = csv.DictReader(path.read_text("utf-8").splitlines())
    return tuple(
        Item(
            row["item"],
            row["part"],
            row["asks for"],
            row["status"],
            tuple(row["where"].split()),
            row["note"],
        )
        for row in rows
    )
