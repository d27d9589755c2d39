"""The chain from marks to slices: computed anew, as a table, as JSON, as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from dicom_node import images, ledger
from dicom_node.errors import SettingsError, UnreadableObjectError
from dicom_node.explanation import Explanation, Mark, Side, Stop
from dicom_node.findings import Selection, Stage
from dicom_node.images import MrImage, StudyObjects
from dicom_node.ledger import StudyRecord
from dicom_node.phases import phase_name
from dicom_node.placement import AS_MARKED
from dicom_node.report import marks
from dicom_node.selection import DEFAULT_PHASE, explain
from worker import manifest, models, outcomes
from worker.cli.context import Site
from worker.cli.printing import print_table, rfc3339
from worker.marked import read_marked
from worker.rules import route, site_rules

EDGES: Final = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True, slots=True)
class Told:
    """A study, its chain, and where the wanted phase comes from."""

    record: StudyRecord
    explanation: Explanation
    phase_source: str


def tell(session: Session, record: StudyRecord, site: Site) -> Told:
    """Compute the chain of a study from its stored files, as an analysis would."""
    phase, source = _wanted_phase(session, site)
    uid = record.study_uid
    stored = [
        *ledger.instances(session, uid),
        *(one.stored for one in ledger.foreign_documents(session, uid)),
    ]
    spool = site.spool
    kept = [
        replace(one, path=spool.fetch(one.path, one.sha256))
        for one in stored
        if spool.written_at(one.path) is not None
    ]
    rules = site_rules(site.settings, route(site.settings, record.calling_ae, kept))
    objects, reading = read_marked(kept, ledger.manual_rois(session, uid), rules)
    objects = _with_gone(objects, len(stored) - len(kept), len(stored))
    accepted = ledger.waived(session, uid)
    return Told(record, explain(objects, reading, phase, rules, accepted), source)


def _with_gone(objects: StudyObjects, gone: int, of: int) -> StudyObjects:
    """Say how many files retention has taken."""
    if not gone:
        return objects
    note = f"{gone} of {of} files are not stored any more"
    return replace(objects, unreadable=(*objects.unreadable, note))


def _wanted_phase(session: Session, site: Site) -> tuple[str, str]:
    """Return the phase of the active stage I model, and who says so."""
    try:
        active = models.in_service(Stage.SLN, outcomes.activations(session))
        folder = models.folder(site.settings.models, active.name, active.version)
        found = manifest.read(folder)
    except SettingsError as error:
        return DEFAULT_PHASE, f"the default, since {error}"
    return found.preprocessing.phase, f"model {found.reference}"


def draw(told: Told, path: Path) -> None:
    """Draw the chain into a PNG file.

    Raises:
        SettingsError: The file cannot be written.
    """
    picture = marks.draw(told.explanation, _pixels)
    try:
        picture.save(path, "PNG")
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written: {error.strerror}; name another file"
        ) from error


def _pixels(image: MrImage) -> NDArray[np.float32] | None:
    try:
        return images.read_pixels(image.path, image.frame)
    except (UnreadableObjectError, OSError):
        return None


def as_document(told: Told) -> dict[str, Any]:
    """Return the chain as `--json` prints it; the keys are a contract."""
    record, found = told.record, told.explanation
    return {
        "study_uid": record.study_uid,
        "state": record.state,
        "reason": record.reason,
        "detail": record.detail,
        "phase": found.phase,
        "phase_source": told.phase_source,
        "outcome": _outcome(found),
        "held": _stop(found.stop),
        "marks": [_mark(n, one) for n, one in enumerate(found.marks, 1)],
        "refused": list(found.refused),
        "key_images": [
            {
                "sop_instance_uid": one.sop_instance_uid,
                "frame": one.frame,
                "document_uid": one.carrier_sop_instance_uid,
            }
            for one in found.key_images
        ],
        "sides": [_side(one) for one in found.sides],
    }


def _outcome(found: Explanation) -> str:
    if found.stop is None:
        return "selected"
    return "ignored" if found.stop.ignored else "held"


def _stop(stop: Stop | None) -> dict[str, str] | None:
    return None if stop is None else {"reason": stop.reason, "detail": stop.detail}


def _mark(number: int, mark: Mark) -> dict[str, Any]:
    one = mark.roi
    return {
        "mark": number,
        "verdict": mark.verdict,
        "why": mark.why,
        "reason": mark.reason,
        "carrier": one.carrier,
        "document_uid": one.carrier_sop_instance_uid,
        "author": one.author,
        "label": one.label,
        "tracking_uid": one.tracking_uid,
        "marked_at": None if one.marked_at is None else rfc3339(one.marked_at),
        "exact": one.exact,
        "adjudicator": one.adjudicator,
        "by_position": one.by_position,
        "sop_instance_uid": one.sop_instance_uid,
        "frame": one.frame,
        "series_number": None if mark.marked is None else mark.marked.series_number,
        **dict(zip(EDGES, one.box, strict=True)),
        "laterality": mark.laterality,
        "area_mm2": mark.area_mm2,
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "laterality": side.laterality,
        "phases": [
            _phase(name, one, side.selection)
            for name, one in zip(_phase_names(side), side.phases, strict=True)
        ],
        "ordered_by": side.told_by,
        "gaps": list(side.gaps),
        "selection": _selection(side.selection),
        "held": _stop(side.stop),
    }


def _phase_names(side: Side) -> list[str]:
    if len(side.phases) == 1:
        return [AS_MARKED]
    return [phase_name(place) for place in range(len(side.phases))]


def _phase(
    name: str, image: MrImage | None, chosen: Selection | None
) -> dict[str, Any]:
    analysed = (chosen.sop_instance_uid, chosen.frame) if chosen else None
    marked = (chosen.roi.sop_instance_uid, chosen.roi.frame) if chosen else None
    key = None if image is None else (image.sop_instance_uid, image.frame)
    return {
        "phase": name,
        "sop_instance_uid": None if image is None else image.sop_instance_uid,
        "frame": None if image is None else image.frame,
        "series_number": None if image is None else image.series_number,
        "acquisition_number": None if image is None else image.acquisition_number,
        "marked": key is not None and key == marked,
        "analysed": key is not None and key == analysed,
    }


def _selection(chosen: Selection | None) -> dict[str, Any] | None:
    if chosen is None:
        return None
    return {
        "phase": chosen.phase,
        "sop_instance_uid": chosen.sop_instance_uid,
        "frame": chosen.frame,
        "marked_sop_instance_uid": chosen.roi.sop_instance_uid,
        "marked_frame": chosen.roi.frame,
        **dict(zip(EDGES, chosen.roi.box, strict=True)),
        "author": chosen.roi.author,
        "exact": chosen.roi.exact,
        "laterality_derived": chosen.laterality_derived,
        "area_mm2": chosen.area_mm2,
        "candidates": chosen.candidates,
        "why": list(chosen.why),
    }


def print_chain(told: Told) -> None:
    """Print the chain for people: study, marks, then each side."""
    document = as_document(told)
    stop = document["held"] or {"reason": "", "detail": ""}
    print_table(
        f"Study {told.record.study_uid} - RESEARCH USE ONLY, not a diagnosis",
        ("", ""),
        [
            (
                "state now",
                " ".join(filter(None, (told.record.state, told.record.reason))),
            ),
            ("this computation", f"{document['outcome']} {stop['reason']}".strip()),
            *([("why", stop["detail"])] if stop["detail"] else []),
            ("wanted phase", f"{document['phase']} ({told.phase_source})"),
            *(
                ("key image", f"{one['sop_instance_uid']} frame {one['frame']}")
                for one in document["key_images"]
            ),
        ],
    )
    if document["marks"]:
        _print_marks(document["marks"])
    if document["refused"]:
        print_table("No rectangles", ("why",), [(one,) for one in document["refused"]])
    for side in document["sides"]:
        _print_side(side)


def _print_marks(found: Sequence[dict[str, Any]]) -> None:
    columns = (
        "#",
        "verdict",
        "side",
        "mm\u00b2",
        "rectangle (px)",
        "series",
        "why",
        "mark",
    )
    rows = []
    for one in found:
        box = "({x0:.1f}, {y0:.1f}) to ({x1:.1f}, {y1:.1f})".format(**one)
        area = "" if one["area_mm2"] is None else f"{one['area_mm2']:.0f}"
        said = [one["carrier"], one["author"], one["label"]]
        lines = [", ".join(str(part) for part in said if part)]
        document = one["document_uid"]
        lines += [f"document {document}" if document else "set by hand"]
        lines += [f"image {one['sop_instance_uid']} frame {one['frame']}"]
        rows.append(
            (
                *(one["mark"], one["verdict"], one["laterality"], area, box),
                *(one["series_number"], one["why"], "\n".join(lines)),
            )
        )
    print_table("Marks", columns, rows)


def _print_side(side: dict[str, Any]) -> None:
    rows: list[tuple[str, object]] = []
    for one in side["phases"]:
        signs = [word for word in ("marked", "analysed") if one[word]]
        where = f"series {one['series_number']}, {one['sop_instance_uid']}"
        absent = one["sop_instance_uid"] is None
        said = "lacks this slice" if absent else where
        rows.append((one["phase"], f"{said} {' and '.join(signs)}".strip()))
    rows += [("ordered by", side["ordered_by"])] if len(side["phases"]) > 1 else []
    rows += [("gap", one) for one in side["gaps"]]
    chosen, held = side["selection"], side["held"]
    if chosen is not None:
        rows.append(("analysed", f"{chosen['sop_instance_uid']}, {chosen['phase']}"))
        rows += [("why", one) for one in chosen["why"]]
    if held is not None:
        rows.append((f"held: {held['reason']}", held["detail"]))
    print_table(f"Side {side['laterality']}", ("", ""), rows)
