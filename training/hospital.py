"""A cohort from a hospital's folder: DICOM studies with ROI objects, and a table.

The rectangle, the slice and the phase are chosen by the very functions of the service,
so that a model is trained on what it will be asked about. Patient IDs become keyed
hashes at once; nothing here keeps one.

    files -> studies -> marks -> the slice of each side -> joined with the table
"""

import hmac
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from dicom_node import references, selection
from dicom_node.attributes import text
from dicom_node.completion import IMAGES
from dicom_node.errors import (
    SettingsError,
    StudyHeldError,
    StudyIgnoredError,
    UnreadableObjectError,
)
from dicom_node.findings import Selection
from dicom_node.images import read_header
from dicom_node.ledger import patient_key
from dicom_node.selection import DEFAULT_PHASE, DEFAULT_RULES, Rules
from dicom_node.study import SopInstanceUid, StoredInstance
from training import cohort, spreadsheet
from training.cohort import CohortRow, Faults, Look
from training.labels import flags_of
from training.row import row_of
from training.snapshot import NEOADJUVANT, About, Exclusion, Snapshot, Tick, assemble
from training.spreadsheet import Line, Table
from worker.clinical import Variable
from worker.marked import read_marked
from worker.roles import Role, draw

Key = Literal["study_uid", "accession", "patient_id"]
COLUMNS: Final = ("sln", "nsln", *(variable.value for variable in Variable))
NO_LABELS: Final = "no_labels"
NO_IMAGES: Final = "no_images"
NO_MARK: Final = "no_mark_on_side"
SEVERAL_STUDIES: Final = "several_studies"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build from, and what the site decided.

    `key` is the column that joins table and studies. `external` are centres whose
    patients are never learnt from. With `skip_missing`, rows of the table without
    images are counted as excluded; else they are an error.
    """

    dicom: Path
    table: Path
    secret: bytes
    key: Key = "study_uid"
    centre: str = ""
    external: Collection[str] = ()
    skip_missing: bool = False
    phase: str = DEFAULT_PHASE
    rules: Rules = DEFAULT_RULES


@dataclass(slots=True)
class Study:
    """The objects of one study, and the values of its keys, the patient's hashed."""

    uid: str
    patient: str
    accession: str
    stored: list[StoredInstance] = field(default_factory=list)


@dataclass(slots=True)
class Found:
    """What was found: rows with their looks, and what is left out and why."""

    rows: list[CohortRow] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)

    def exclude(self, case_id: str, reason: str, detail: str = "") -> None:
        """Leave a case or a study out."""
        self.exclusions.append(Exclusion(case_id=case_id, reason=reason, detail=detail))


def files(folder: Path) -> list[Path]:
    """Return every file below a folder, in a fixed order.

    Raises:
        SettingsError: There is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    if not found:
        raise SettingsError(f"{folder} holds no file")
    return found


def scan(paths: Sequence[Path], secret: bytes, tick: Tick) -> tuple[list[Study], int]:
    """Group DICOM files by study; `tick` after each file.

    Returns:
        The studies by UID, and how many files could not be read as DICOM.
    """
    studies: dict[str, Study] = {}
    seen: set[str] = set()
    unread = 0
    for path in paths:
        tick()
        try:
            header = read_header(path)
        except (UnreadableObjectError, OSError):
            unread += 1
            continue
        sop, uid = text(header, "SOPInstanceUID"), text(header, "StudyInstanceUID")
        if sop in seen or not uid:
            continue
        seen.add(sop)
        study = studies.setdefault(
            uid,
            Study(
                uid,
                patient_key(secret, text(header, "PatientID") or uid),
                text(header, "AccessionNumber"),
            ),
        )
        study.stored.append(
            StoredInstance(
                sop_instance_uid=SopInstanceUid(sop),
                series_uid=text(header, "SeriesInstanceUID"),
                sop_class_uid=text(header, "SOPClassUID"),
                path=path.absolute(),
                sha256="",
            )
        )
    return [studies[uid] for uid in sorted(studies)], unread


def build(plan: Plan, studies: Sequence[Study], unread: int, tick: Tick) -> Snapshot:
    """Choose the slices of studies and join them with the table; `tick` each study.

    Raises:
        SettingsError: The table is faulty, or rows of it have no images; all before
            the first image is decoded.
    """
    table = spreadsheet.read(plan.table, (plan.key, "sln"))
    found = Found()
    lines = _lines(plan, table, studies, found)
    foreign = _foreign(studies)
    for study in studies:
        tick()
        documents = foreign.get(study.uid, [])
        _add_study(plan, study, documents, (lines.get(study.uid, []), found))
    return assemble(
        plan.dicom.absolute(),
        found.rows,
        About(
            f"cohort {plan.centre or plan.dicom.resolve().name}",
            tuple(found.exclusions),
            sources={"studies": len(studies), "files_not_dicom": unread},
        ),
        looks=found.looks,
    )


def _foreign(studies: Sequence[Study]) -> dict[str, list[StoredInstance]]:
    """Return the documents of other studies that mark images of each study."""
    home = {
        one.sop_instance_uid: study.uid for study in studies for one in study.stored
    }
    found: dict[str, list[StoredInstance]] = defaultdict(list)
    for study in studies:
        by_uid = {one.sop_instance_uid: one for one in study.stored}
        for document, images in references.foreign_references(study.stored).items():
            for uid in {home[image] for image in images if image in home}:
                found[uid].append(by_uid[document])
    return found


def _lines(
    plan: Plan, table: Table, studies: Sequence[Study], found: Found
) -> dict[str, list[Line]]:
    """Return the lines of each study.

    Raises:
        SettingsError: A line has no key or no study, or a side twice.
    """
    known: dict[str, list[str]] = defaultdict(list)
    for study in studies:
        known[_key_of(plan, study)].append(study.uid)
    faults = Faults(table.path)
    lines: dict[str, list[Line]] = defaultdict(list)
    for line in table.lines:
        uids = known.get(_wanted(plan, line), []) if line.cells[plan.key] else []
        if len(uids) == 1:
            lines[uids[0]].append(line)
        else:
            _settle_lone(plan, line, len(uids), (faults, found))
    for each in lines.values():
        _demand_sides(each, faults)
    faults.demand_none()
    return lines


def _settle_lone(
    plan: Plan, line: Line, studies: int, into: tuple[Faults, Found]
) -> None:
    """Exclude or refuse a line that is not of exactly one study."""
    faults, found = into
    where = f"line {line.number}"
    if not line.cells[plan.key]:
        faults.add(where, f"{plan.key}: is empty; every row needs its study")
    elif studies:
        found.exclude(where, SEVERAL_STUDIES, f"{studies} studies have its {plan.key}")
    elif plan.skip_missing:
        found.exclude(where, NO_IMAGES, "no study in the folder has its key")
    else:
        faults.add(
            where,
            f"{plan.key}: labels without a case: no study in {plan.dicom} has it; "
            "add its images, remove the row, or give --skip-missing",
        )


def _demand_sides(lines: Sequence[Line], faults: Faults) -> None:
    sides = Counter(line.cells.get("laterality", "").upper() for line in lines)
    if max(sides.values()) > 1 or (len(lines) > 1 and "" in sides):
        numbers = ", ".join(str(line.number) for line in lines)
        faults.add(
            f"lines {numbers}",
            "laterality: rows of one study need a side each, L and R",
        )


def _key_of(plan: Plan, study: Study) -> str:
    if plan.key == "patient_id":
        return study.patient
    return study.uid if plan.key == "study_uid" else study.accession


def _wanted(plan: Plan, line: Line) -> str:
    said = line.cells[plan.key]
    return patient_key(plan.secret, said) if plan.key == "patient_id" else said


def _add_study(
    plan: Plan,
    study: Study,
    documents: Sequence[StoredInstance],
    into: tuple[Sequence[Line], Found],
) -> None:
    lines, found = into
    if not lines:
        if any(_is_image(one) for one in study.stored):
            found.exclude(study.uid, NO_LABELS, "the table has no row of the study")
        return
    try:
        objects, reading = read_marked((*study.stored, *documents), (), plan.rules)
        chosen = selection.select(objects, reading, plan.phase, plan.rules)
    except (StudyHeldError, StudyIgnoredError) as error:
        for line in lines:
            found.exclude(_case_id(plan, study, line), error.reason, error.detail)
        return
    sides = {one.laterality: one for one in chosen}
    for line in lines:
        said = line.cells.get("laterality", "").upper()
        side = said or (next(iter(sides)) if len(sides) == 1 else "")
        choice = next((one for name, one in sides.items() if name == side), None)
        if choice is None:
            marked = ", ".join(sorted(sides))
            found.exclude(
                _case_id(plan, study, line),
                NO_MARK,
                f"the row is of side {said or 'unknown'}, marked is {marked}",
            )
        else:
            _add_case(plan, study, (line, choice), found)


def _is_image(one: StoredInstance) -> bool:
    return one.sop_class_uid in IMAGES


def _case_id(plan: Plan, study: Study, line: Line) -> str:
    side = line.cells.get("laterality", "").upper()
    return pseudonym(plan.secret, f"case {study.uid} {side}")


def pseudonym(secret: bytes, said: str) -> str:
    """Return a short keyed hash, for a name that means nothing elsewhere."""
    return hmac.digest(secret, said.encode(), "sha256").hex()[:16]


def _add_case(
    plan: Plan, study: Study, joined: tuple[Line, Selection], found: Found
) -> None:
    line, choice = joined
    case_id = _case_id(plan, study, line)
    try:
        row = row_of(_cells(plan, study, line, choice) | {"case_id": case_id})
    except ValueError as error:
        raise SettingsError(f"{plan.table}: line {line.number}: {error}") from None
    if row.neoadjuvant == "yes":
        found.exclude(case_id, NEOADJUVANT, "treated before surgery")
        return
    try:
        look = cohort.look(plan.dicom.absolute(), row)
    except SettingsError as error:
        found.exclude(case_id, "unreadable", str(error))
        return
    found.rows.append(row)
    found.looks.append(look)


def _cells(plan: Plan, study: Study, line: Line, choice: Selection) -> dict[str, str]:
    centre = line.cells.get("centre") or plan.centre
    role = (
        Role.EXTERNAL if centre in plan.external else draw(plan.secret, study.patient)
    )
    said = {name: line.cells[name] for name in COLUMNS if name in line.cells}
    x0, y0, x1, y1 = choice.roi.box
    return {
        "nsln": "",
        **said,
        "study_uid": study.uid,
        "patient_key": study.patient,
        "centre": centre,
        "cohort": line.cells.get("cohort", ""),
        "role": line.cells.get("role") or role.value,
        "laterality": choice.laterality.value,
        "image": choice.path.relative_to(plan.dicom.absolute()).as_posix(),
        "sop_instance_uid": choice.sop_instance_uid,
        "frame": str(choice.frame),
        "x0": repr(x0),
        "y0": repr(y0),
        "x1": repr(x1),
        "y1": repr(y1),
        "flags": flags_of(choice.roi, line.cells.get("performed_on", "")),
    }
