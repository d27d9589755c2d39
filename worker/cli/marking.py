"""`sentinode roi set`, `unset`, `list`: what a person marks without a workstation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click
from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.completion import IMAGES
from dicom_node.db import now
from dicom_node.errors import NotFoundError, StateError
from dicom_node.findings import Carrier, Laterality, Roi, Selection
from dicom_node.ledger import Mark
from dicom_node.study import SopInstanceUid, StudyState, StudyUid
from worker.cli import preview, signed
from worker.cli.context import Site, operator, site_options
from worker.cli.printing import json_option, print_json, print_table, rfc3339

sop_option = click.option(
    "--sop", required=True, metavar="UID", help="SOP Instance UID of the marked image."
)
frame_option = click.option(
    "--frame", type=click.IntRange(min=1), default=1, help="Of a multi-frame image [1]."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
note_option = click.option("--note", help="Why; kept with the entry, names no patient.")


@click.command("set")
@sop_option
@click.option(
    "--box",
    required=True,
    type=float,
    nargs=4,
    metavar="X0 Y0 X1 Y1",
    help="In pixels; (0, 0) is the outer corner of the first one.",
)
@frame_option
@click.option(
    "--side",
    type=click.Choice([one.value for one in Laterality]),
    help="Of the breast; only where the image does not tell, or tells it wrong.",
)
@note_option
@yes_option
@json_option
@site_options
def set_roi(  # noqa: PLR0913 - one argument for each option of the contract
    site: Site,
    *,
    sop: str,
    box: preview.Box,
    frame: int,
    side: str | None,
    note: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Set the rectangle of one side of a study, on one of its MR images.

    It wins over what other readers drew on that side, and over what was set there
    before. Nothing is overwritten: every entry is kept with who made it and when.

    Example: sentinode roi set --sop 1.2.3 --box 120 80 164.5 131
    """
    preview.check(box)
    with site.reading() as session:
        study_uid = _study_of(session, sop)
        objects = preview.read_images(site, session, study_uid)
        phase = preview.phase_in_service(site, session)
    roi = Roi(SopInstanceUid(sop), frame, *box, Carrier.MANUAL, None, operator())
    roi = replace(roi, laterality=Laterality(side) if side else None)
    chosen = preview.choose(site, objects, replace(roi, adjudicator=True), phase)
    if not yes:
        _show(study_uid, chosen)
        click.confirm("Set this rectangle?", abort=True, err=True)
    mark = Mark(
        study_uid=study_uid,
        laterality=chosen.laterality,
        sop_instance_uid=roi.sop_instance_uid,
        frame=frame,
        box=box,
        note=note,
        set_by=operator(),
        set_at=now(),
        side_stated=side is not None,
    )
    _enter(site, mark, "set", as_json=as_json)


@click.command("unset")
@sop_option
@frame_option
@note_option
@yes_option
@json_option
@site_options
def unset_roi(  # noqa: PLR0913 - one argument for each option
    site: Site, *, sop: str, frame: int, note: str | None, yes: bool, as_json: bool
) -> None:
    """Take back a rectangle that was set by hand; what readers drew counts again."""
    with site.reading() as session:
        history = ledger.mark_history(session, _study_of(session, sop))
    here = (sop, frame)
    marks = ledger.current_marks(history)
    mark = next((m for m in marks if (m.sop_instance_uid, m.frame) == here), None)
    if mark is None:
        raise NotFoundError(
            f"no rectangle set by hand counts on frame {frame} of image {sop}; see "
            "`sentinode roi list`"
        )
    if not yes:
        print_table("Set by hand", COLUMNS, [_row(mark)], err=True)
        click.confirm("Take this rectangle back?", abort=True, err=True)
    withdrawn = replace(mark, box=None, note=note, set_by=operator(), set_at=now())
    _enter(site, withdrawn, "taken back", as_json=as_json)


@click.command("list")
@click.argument("uid", required=False)
@json_option
@site_options
def list_rois(site: Site, uid: str | None, *, as_json: bool) -> None:
    """List what was set by hand, of one study or of all, oldest first."""
    with site.reading() as session:
        if uid is not None:
            ledger.study(session, StudyUid(uid))
        history = ledger.mark_history(session, StudyUid(uid) if uid else None)
    counting = ledger.current_marks(history)
    if as_json:
        print_json([_entry(one) | {"counts": one in counting} for one in history])
        return
    rows = [(*_row(one), "counts" if one in counting else "") for one in history]
    print_table("Set by hand", (*COLUMNS, ""), rows)


def _study_of(session: Session, sop: str) -> StudyUid:
    """Return the study of an MR image that a person may mark.

    Raises:
        NotFoundError: The image is not here.
        StateError: It is no MR image, or its study takes no rectangle now.
    """
    stored = ledger.instance(session, SopInstanceUid(sop))
    study_uid = ledger.study_of(session, SopInstanceUid(sop))
    if study_uid is None:
        raise NotFoundError(f"there is no object {sop}")
    if stored is None:
        raise StateError(
            f"object {sop} was purged: get its study {study_uid} from the archive "
            "first, with `sentinode studies reprocess UID --from roi --refetch`"
        )
    if stored.sop_class_uid not in IMAGES:
        raise StateError(f"object {sop} is no MR image")
    found = ledger.contradiction(session, study_uid)
    if found is not None:
        raise StateError(f"study {study_uid} takes no rectangle now: {found[1]}")
    return study_uid


def _show(study_uid: StudyUid, chosen: Selection) -> None:
    roi = chosen.roi
    print_table(
        "RESEARCH USE ONLY, not a diagnosis",
        ("", ""),
        [
            ("study", study_uid),
            ("marked on", f"{roi.sop_instance_uid}, frame {roi.frame}"),
            ("rectangle", f"({roi.x0}, {roi.y0}) to ({roi.x1}, {roi.y1}) px"),
            ("area", f"{chosen.area_mm2:.0f} mm\u00b2"),
            ("side", chosen.laterality),
            ("analysed on", f"{chosen.sop_instance_uid}, {chosen.phase}"),
            *(("why", sentence) for sentence in chosen.why),
        ],
        err=True,
    )


def _enter(site: Site, mark: Mark, done: str, *, as_json: bool) -> None:
    with site.writing.begin() as session:
        state = ledger.set_mark(session, mark)
        signed.thing(
            session,
            site,
            f"roi {done}",
            mark.sop_instance_uid,
            f"side {mark.laterality}",
            study=mark.study_uid,
        )
    if as_json:
        print_json(_entry(mark) | {"state": state})
        return
    after = {
        StudyState.RECEIVING: "it is analysed when the study is complete",
        StudyState.QUEUED: "the study is queued",
    }
    click.echo(f"{done}: side {mark.laterality}; {after.get(state, state)}")


COLUMNS = ("study_uid", "side", "sop_instance_uid", "frame", "box", "by", "at", "note")


def _row(mark: Mark) -> Sequence[object]:
    box = " ".join(f"{edge:g}" for edge in mark.box) if mark.box else "taken back"
    image = (mark.sop_instance_uid, mark.frame)
    who = (mark.set_by, mark.set_at, mark.note)
    return (mark.study_uid, mark.laterality, *image, box, *who)


def _entry(mark: Mark) -> dict[str, Any]:
    x0, y0, x1, y1 = mark.box or (None, None, None, None)
    return {
        "study_uid": mark.study_uid,
        "laterality": mark.laterality,
        "side_stated": mark.side_stated,
        "sop_instance_uid": mark.sop_instance_uid,
        "frame": mark.frame,
        "x0": x0,
        "y0": y0,
        "x1": x1,
        "y1": y1,
        "note": mark.note,
        "set_by": mark.set_by,
        "set_at": rfc3339(mark.set_at),
    }
