"""Writing a phantom cohort: a folder per study, `cohort.csv`, `truth.csv`.

`cohort.csv` is what a hospital could have: files, rectangle, labels, clinical
variables. `truth.csv` is what only the phantom knows: latents and true logits.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from training.layout import COHORT_NAME, DESCRIPTION_NAME, TRUTH_NAME
from training.phantom import law as laws
from training.phantom.anatomy import Level, Subject
from training.phantom.crops import subjects
from training.phantom.objects import (
    Shot,
    Visit,
    gsps_rectangle,
    mr_image,
    sr_rectangle,
)
from training.phantom.render import Phase, View, marked_part, render_slice, whole_slice
from training.phantom.scanner import SCANNERS
from training.row import COHORTS, WRITTEN

FIRST_VISIT: Final = datetime(2024, 1, 2, 8, 0, 0)  # noqa: DTZ001 - a scanner's local clock


Row = dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Order:
    """What to write. `slices` per phase is odd: the largest lesion is in the middle."""

    cases: int
    seed: int
    level: Level = Level.EASY
    centre: int | None = None
    slices: int = 3


@dataclass(frozen=True, slots=True)
class Case:
    """One patient to write, with every column of both tables except file names."""

    folder: Path
    subject: Subject
    visit: Visit
    slices: int
    number: int
    known: Row
    truth: Row


def write(order: Order, out: Path, workers: int = 1) -> Iterator[str]:
    """Write a cohort into a new or empty folder, yielding each finished case.

    Raises:
        FileExistsError: The folder already holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    planned = plan(order, out)
    rows = []
    for row in _each(planned, workers):
        rows.append(row)
        yield str(row["case_id"])
    _write_table(out / COHORT_NAME, rows)
    _write_table(out / TRUTH_NAME, [case.truth for case in planned])
    description = {"generator": 1, **asdict(order)}
    (out / DESCRIPTION_NAME).write_text(json.dumps(description, indent=2) + "\n")


def _each(planned: Sequence[Case], workers: int) -> Iterable[Row]:
    if workers <= 1:
        yield from map(write_case, planned)
        return
    context = get_context("spawn")  # forked children would inherit BLAS threads
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(write_case, planned, chunksize=4)


def plan(order: Order, out: Path) -> list[Case]:
    """Draw the patients of a cohort and say where each goes."""
    chosen = tuple(law for law in laws.COHORTS if order.centre in {None, law.centre})
    counts = laws.apportion(order.cases, chosen)
    drawn = [
        laws.draw(law, n, order.seed) for law, n in zip(chosen, counts, strict=True)
    ]
    rows = chain.from_iterable(_rows(patients, order) for patients in drawn)
    return [_case(number, order, out, row) for number, row in enumerate(rows, start=1)]


def _rows(patients: laws.Patients, order: Order) -> Iterator[tuple[Subject, Row, Row]]:
    law = patients.law
    clinic = laws.draw_clinic(patients, order.seed)
    for i, subject in enumerate(subjects(patients, order.seed, order.level)):
        known: Row = {
            "centre": law.centre,
            "cohort": COHORTS.get(law.role, law.name),
            "role": law.role,
            "laterality": "L" if subject.side > 0 else "R",
            "sln": WRITTEN[int(patients.sln[i])],
            "nsln": WRITTEN[int(patients.nsln[i])],
            "size_cm": round(subject.size, 2),
            "age": int(clinic.age[i]),
            "menopause": "pre" if clinic.premenopausal[i] else "post",
            "histology": laws.HISTOLOGY[clinic.histology[i]],
            "grade": laws.GRADE[clinic.grade[i]],
            "subtype": laws.SUBTYPE[clinic.subtype[i]],
            "birads": laws.BIRADS[clinic.birads[i]],
            "mri_aln": WRITTEN[int(clinic.mri_aln[i])],
        }
        truth: Row = {
            "sln": known["sln"],
            "nsln": known["nsln"],
            "sln_score": float(patients.sln_score[i]),
            "nsln_score": float(patients.nsln_score[i]),
            "spiculation": subject.spiculation,
            "halo": subject.halo,
            "rim": subject.rim,
            "heterogeneity": subject.heterogeneity,
        }
        yield subject, known, truth


def _case(number: int, order: Order, out: Path, row: tuple[Subject, Row, Row]) -> Case:
    subject, known, truth = row
    case_id = f"case-{number:04d}"
    key = f"sentinode phantom 1 {order.level} {order.seed} {subject.seed}"
    visit = Visit(
        key=key,
        patient_id=f"PHANTOM-{order.seed}-{number:04d}",
        age=int(known["age"]),
        at=FIRST_VISIT + timedelta(days=number // 8, hours=number % 8),
        centre=subject.centre,
    )
    return Case(
        folder=out / case_id,
        subject=subject,
        visit=visit,
        slices=order.slices,
        number=number,
        known={
            "case_id": case_id,
            "study_uid": visit.uid(),
            "patient_key": visit.patient_id,
            **known,
        },
        truth={"case_id": case_id, "study_uid": visit.uid(), **truth},
    )


def write_case(case: Case) -> Row:
    """Write the study of one patient and return its row of `cohort.csv`.

    Odd cases carry the rectangle in a presentation state, even ones in an SR.
    """
    case.folder.mkdir()
    whole, part = whole_slice(case.subject), marked_part(case.subject)
    scanner = SCANNERS[case.subject.centre]
    marked = None
    for view in _views(case.slices):
        shot = Shot(view, scanner, whole.grid, render_slice(whole, part, view))
        image = mr_image(case.visit, shot)
        name = f"mr-{view.phase}-{image.InstanceNumber}.dcm"
        image.save_as(case.folder / name, enforce_file_format=True)
        if view == View(Phase.POST_1):
            marked = (image, name)
    if marked is None:
        raise ValueError(f"{case.slices} slices do not hold the marked one")
    image, name = marked
    build = gsps_rectangle if case.number % 2 else sr_rectangle
    document = build(case.visit, image, whole.box)
    document.save_as(case.folder / "roi.dcm", enforce_file_format=True)
    return {
        **case.known,
        "image": f"{case.folder.name}/{name}",
        "sop_instance_uid": str(image.SOPInstanceUID),
        "frame": 1,
        **dict(zip(("x0", "y0", "x1", "y1"), whole.box, strict=True)),
    }


def _views(slices: int) -> Iterator[View]:
    half = slices // 2
    for phase in Phase:
        for position in range(-half, half + 1):
            yield View(phase, position)


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
