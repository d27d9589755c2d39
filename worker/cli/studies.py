"""`sentinode studies`: find studies and see why they stand where they stand."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click
from pydicom import Dataset
from sqlalchemy.orm import Session

from dicom_node import differences, images, kept, ledger
from dicom_node.audit import Action
from dicom_node.errors import UnreadableObjectError
from dicom_node.ledger import StudyRecord
from dicom_node.spool import Spool
from dicom_node.study import StudyUid
from worker import keeping, outcomes, reprocessing
from worker.cli import signed
from worker.cli.choosing import choice_options, wanted_of
from worker.cli.context import Site, limit_option, site_options
from worker.cli.printing import json_option, print_json, print_table, rfc3339
from worker.cli.purge import command as purge
from worker.cli.purge import kept_of, purged_of
from worker.cli.reprocess import command as reprocess
from worker.cli.steering import complete, hold, ignore, requeue
from worker.keeping import KeptRecord
from worker.outcomes import CaseRecord, ResultRecord


@click.group("studies")
def command() -> None:
    """Find studies, see why they stand where they stand, move them on."""


for each in (purge, complete, requeue, hold, ignore, reprocess):
    command.add_command(each)

phi_option = click.option(
    "--phi", is_flag=True, help="Show the patient's name and ID, read from the files."
)


def _head(record: StudyRecord) -> dict[str, Any]:
    return {
        "study_uid": record.study_uid,
        "state": record.state,
        "reason": record.reason,
        "detail": record.detail,
        "patient_key": record.patient_key,
        "calling_ae": record.calling_ae,
        "received_at": rfc3339(record.received_at),
        "instances": record.instances,
        "quiet_until": rfc3339(record.quiet_until),
    }


def _roi(result: ResultRecord) -> dict[str, Any]:
    roi = result.roi
    return {
        "carrier": roi.carrier,
        "sop_instance_uid": roi.sop_instance_uid,
        "frame": roi.frame,
        "x0": roi.x0,
        "y0": roi.y0,
        "x1": roi.x1,
        "y1": roi.y1,
        "author": roi.author,
        "exact": roi.exact,
    }


def _selection(result: ResultRecord) -> dict[str, Any]:
    return {
        "phase": result.phase,
        "laterality": result.laterality,
        "laterality_derived": result.laterality_derived,
        "sop_instance_uid": result.source_sop_instance_uid,
        "area_mm2": result.area_mm2,
        "candidates": result.candidates,
        "why": list(result.why),
    }


def _case(case: CaseRecord) -> dict[str, Any]:
    return {
        "case_id": case.case_id,
        "laterality": case.laterality,
        "pathway": case.pathway,
        "roi": _roi(case.newest),
        "selection": _selection(case.newest),
        "results": [one.result_id for one in case.results],
    }


def _whole(session: Session, spool: Spool, record: StudyRecord) -> dict[str, Any]:
    """Return a study as `show --json` prints it; the keys are a contract."""
    cases = [
        _case(one) | {"kept": kept_of(session, spool, one.newest.result_id)}
        for one in outcomes.cases(session, record.study_uid)
    ]
    only = cases[0] if len(cases) == 1 else None
    return _head(record) | {
        "roi": only["roi"] if only else None,
        "selection": only["selection"] if only else None,
        "cases": cases,
        "purged": purged_of(session, record.study_uid),
        "events": [
            {"at": rfc3339(one.at), "what": one.what, "detail": one.detail}
            for one in ledger.events(session, record.study_uid)
        ],
    }


def _contradictions(
    session: Session, spool: Spool, uid: StudyUid
) -> list[dict[str, Any]]:
    """Name the attributes in which objects contradict; values are not shown."""
    found = []
    for one in ledger.contradictions(session, uid):
        compare = differences.changed if one.same_uid else differences.identity_changed
        try:
            names = compare(spool.fetch(one.first), spool.fetch(one.second))
        except (UnreadableObjectError, FileNotFoundError):
            names = ["(a file is missing or cannot be read)"]
        said = {"same_uid": one.same_uid, "attributes": list(names)}
        found.append({"sop_instance_uid": one.sop_instance_uid} | said)
    return found


def _identity(session: Session, spool: Spool, uid: StudyUid) -> dict[str, str]:
    """Read who the patient is from a stored file; the database does not know."""
    header = Dataset()
    files = [one.path for one in ledger.instances(session, uid)]
    files += [kept.slice_path(one.slice_sha256) for one in _slices(session, uid)]
    for path in files:
        with suppress(UnreadableObjectError, FileNotFoundError):
            header = images.read_header(spool.fetch(path))
            break
    return {
        "patient_name": str(header.get("PatientName", "")),
        "patient_id": str(header.get("PatientID", "")),
    }


def _slices(session: Session, uid: StudyUid) -> Sequence[KeptRecord]:
    return tuple(keeping.of_study(session, uid).values())


def _enter_view(site: Site, what: str, uids: Sequence[str]) -> None:
    """Enter who looks at names, before any is shown: without the entry none is."""
    with site.writing.begin() as session:
        signed.studies(session, site, what, uids, action=Action.READ)


@command.command("list")
@choice_options
@limit_option(50)
@phi_option
@json_option
@site_options
def list_studies(
    site: Site,
    limit: int,
    *,
    phi: bool,
    as_json: bool,
    **said: Any,  # noqa: ANN401 - the options that choose
) -> None:
    """List studies, newest first: all of them, or those that the options choose.

    Example: sentinode studies list --state held --received-since 2026-03-01
    """
    wanted = wanted_of(site, (), said)
    with site.reading() as session:
        uids = reprocessing.newest(session, wanted, limit)
        found = [ledger.study(session, uid) for uid in uids]
    if phi:
        _enter_view(site, "studies list --phi", [one.study_uid for one in found])
    with site.reading() as session:
        rows = [
            (_whole(session, site.spool, one) if as_json else _head(one))
            | (_identity(session, site.spool, one.study_uid) if phi else {})
            for one in found
        ]
    if as_json:
        print_json(rows)
        return
    columns = ["study_uid", "state", "reason", "instances", "received_at"]
    columns += ["patient_name", "patient_id"] if phi else []
    print_table("Studies", columns, [[row[name] for name in columns] for row in rows])


@command.command()
@click.argument("uid")
@phi_option
@json_option
@site_options
def show(site: Site, uid: str, *, phi: bool, as_json: bool) -> None:
    """Show one study: its state, its rectangle, every reason, its history."""
    with site.reading() as session:
        record = ledger.study(session, StudyUid(uid))
    if phi:
        _enter_view(site, "studies show --phi", [record.study_uid])
    with site.reading() as session:
        whole = _whole(session, site.spool, record)
        whole["contradictions"] = _contradictions(session, site.spool, record.study_uid)
        if phi:
            whole |= _identity(session, site.spool, record.study_uid)
    if as_json:
        print_json(whole)
        return
    head = {
        key: whole[key]
        for key in whole
        if key not in {"cases", "contradictions", "events", "roi", "selection"}
    }
    if head["purged"]:
        head["purged"] = f"{head['purged']['images']} images, {head['purged']['at']}"
    print_table(f"Study {uid}", ("", ""), list(head.items()))
    for case in whole["cases"]:
        _print_case(case)
    if whole["contradictions"]:
        print_table(
            "Contradicting objects - values are not shown",
            ("object", "came twice", "attributes that differ"),
            [
                (one["sop_instance_uid"], one["same_uid"], ", ".join(one["attributes"]))
                for one in whole["contradictions"]
            ],
        )
    print_table(
        "History",
        ("at", "what", "detail"),
        [(one["at"], one["what"], one["detail"]) for one in whole["events"]],
    )


def _print_case(case: dict[str, Any]) -> None:
    roi, selection = case["roi"], case["selection"]
    print_table(
        f"Case {case['case_id']} - RESEARCH USE ONLY, not a diagnosis",
        ("", ""),
        [
            ("side", case["laterality"]),
            ("pathway", case["pathway"]),
            (
                "rectangle",
                (
                    f"({roi['x0']:.1f}, {roi['y0']:.1f}) to ({roi['x1']:.1f}, "
                    f"{roi['y1']:.1f}) px, {roi['carrier']}"
                ),
            ),
            ("marked on", roi["sop_instance_uid"]),
            ("analysed on", f"{selection['sop_instance_uid']}, {selection['phase']}"),
            *(("why", sentence) for sentence in selection["why"]),
            *(("result", result_id) for result_id in case["results"]),
            ("kept", ", ".join(n for n, there in case["kept"].items() if there)),
        ],
    )
