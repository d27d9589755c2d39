"""A cohort from the live database: analysed cases, pathology, clinical variables.

The newest result of each case says which slice and which rectangle; pathology says
the label, whatever the result was. As of an earlier time the same rows come out
again, as long as the slices are kept.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from dicom_node import kept, ledger
from dicom_node.db import Sessions, insert_missing
from dicom_node.errors import SettingsError, UnreadableObjectError
from dicom_node.findings import Stage
from dicom_node.ledger import StudyRecord
from dicom_node.spool import Spool
from dicom_node.study import StudyState
from training import cohort
from training.cohort import CohortRow, Look
from training.labels import flags_of
from training.row import row_of
from training.snapshot import (
    NEOADJUVANT,
    About,
    Exclusion,
    Snapshot,
    Tick,
    assemble,
    reasons,
)
from training.stage_one import StageOne
from worker import keeping, outcomes, pathology, roles
from worker.clinical import Variable
from worker.outcomes import CaseRecord, ResultRecord
from worker.pathology import NOTHING, Pathology
from worker.tables import LabelValue, SnapshotRow

IMAGES_PURGED = "images_purged"
NOT_ANALYSED = "not_analysed"
WORDS = {
    LabelValue.POSITIVE: "1",
    LabelValue.NEGATIVE: "0",
    LabelValue.UNKNOWN: "unknown",
}


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the database and the kept slices are, and the rules of the site."""

    sessions: Sessions
    spool: Spool
    secret: bytes
    itc_is_positive: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """As of when, and how centres are named.

    Without `centre` each study is of the AE title that sent it. Patients of `external`
    centres are never learnt from.
    """

    as_of: datetime
    centre: str | None = None
    external: Collection[str] = ()


@dataclass(slots=True)
class _Found:
    rows: list[CohortRow] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)
    stage_one: dict[str, StageOne] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)

    def exclude(self, case_id: str, reason: str, detail: str = "") -> None:
        self.exclusions.append(Exclusion(case_id=case_id, reason=reason, detail=detail))


@dataclass(frozen=True, slots=True)
class _Case:
    """One side of a study as it was known then."""

    study: StudyRecord
    case: CaseRecord
    result: ResultRecord
    known: Pathology
    role: roles.Role
    centre: str


def collect(site: Installation, plan: Plan, tick: Tick) -> Snapshot:
    """Read the cohort of an installation as of a time; `tick` after each study.

    Patients without a role get one, for ever.

    Raises:
        SettingsError: No case can be used, or rows contradict one another.
    """
    found = _Found()
    with site.sessions.begin() as session:
        studies = _studies(session, plan)
        _assign(session, site, plan, studies)
        parts = roles.all_roles(session)
        known = pathology.known(
            session, itc_is_positive=site.itc_is_positive, as_of=plan.as_of
        )
        for study in studies:
            tick()
            cases = outcomes.cases(session, study.study_uid)
            stands = [_as_of(case, plan.as_of) for case in cases]
            if not any(stands) or study.reason in ledger.CONTRADICTIONS:
                _exclude_study(study, found)
                continue
            role, centre = parts[study.patient_key]
            for case, result in zip(cases, stands, strict=True):
                if result is not None:
                    side = (study.study_uid, case.laterality)
                    said = known.get(side, NOTHING)
                    one = _Case(study, case, result, said, role, centre)
                    _add(session, site, one, found)
    return assemble(
        site.spool.root,
        found.rows,
        About(
            f"analysed cases as of {plan.as_of:%Y-%m-%d}",
            tuple(found.exclusions),
            sources={
                "as_of": plan.as_of.isoformat(),
                "screened_studies": len(studies),
                "results": found.results,
            },
            stage_one=found.stage_one,
        ),
        looks=found.looks,
    )


def _studies(session: Session, plan: Plan) -> list[StudyRecord]:
    studies = [one for one in ledger.studies(session) if one.received_at <= plan.as_of]
    return sorted(studies, key=lambda one: (one.received_at, one.study_uid))


def _assign(
    session: Session, site: Installation, plan: Plan, studies: list[StudyRecord]
) -> None:
    """Give every new patient a role and the centre of the first study."""
    centres: dict[str, str] = {}
    for one in studies:
        centres.setdefault(one.patient_key, plan.centre or one.calling_ae)
    roles.assign(session, site.secret, centres, plan.external, plan.as_of)


def _as_of(case: CaseRecord, at: datetime) -> ResultRecord | None:
    before = [one for one in case.results if one.created_at <= at]
    return before[-1] if before else None


def _exclude_study(study: StudyRecord, found: _Found) -> None:
    waiting = study.state in {StudyState.RECEIVING, StudyState.QUEUED}
    reason = NOT_ANALYSED if waiting or study.reason is None else study.reason.value
    found.exclude(study.study_uid, reason, study.detail or "")


def _add(session: Session, site: Installation, one: _Case, found: _Found) -> None:
    case_id = one.case.case_id
    if one.known.clinical.get(Variable.NEOADJUVANT) == "yes":
        found.exclude(case_id, NEOADJUVANT, "treated before surgery")
        return
    path = _slice(session, site, one.result)
    if path is None:
        found.exclude(
            case_id,
            IMAGES_PURGED,
            "the analysed slice is neither among the images nor among what was kept",
        )
        return
    row = row_of(_cells(one, path))
    try:
        look = cohort.look(site.spool.root, row)
    except SettingsError as error:
        found.exclude(case_id, "unreadable", str(error))
        return
    found.rows.append(row)
    found.looks.append(look)
    found.results.append(one.result.result_id)
    sln = next(each for each in one.result.stages if each.stage is Stage.SLN)
    if None not in {sln.probability, sln.threshold, sln.risk}:
        found.stage_one[case_id] = StageOne.model_validate(
            {
                "case_id": case_id,
                "probability": sln.probability,
                "threshold": sln.threshold,
                "risk": sln.risk.value if sln.risk else None,
                "model": sln.model or "",
                "weights_sha256": sln.weights_sha256 or "",
            }
        )


def _slice(session: Session, site: Installation, result: ResultRecord) -> Path | None:
    """Return the analysed slice, relative to the spool: kept, or still an image."""
    record = keeping.of(session, result.result_id)
    if record is not None and record.released_at is None:
        try:
            kept.check_slice(site.spool, record.slice_sha256)
        except UnreadableObjectError:
            pass  # damaged or lost: the image itself may still be here
        else:
            return kept.slice_path(record.slice_sha256)
    stored = ledger.instance(session, result.source_sop_instance_uid)
    if stored is None or not kept.has(site.spool, stored.path):
        return None
    return stored.path


def _cells(one: _Case, path: Path) -> dict[str, str]:
    result, known = one.result, one.known
    x0, y0, x1, y1 = result.roi.box
    sln, nsln = known.sln, known.nsln
    when = (sln.performed_on or sln.recorded_at) if sln else None
    return {
        "case_id": one.case.case_id,
        "study_uid": one.study.study_uid,
        "patient_key": one.study.patient_key,
        "centre": one.centre,
        "role": one.role.value,
        "laterality": one.case.laterality.value,
        "sln": WORDS[sln.value] if sln else "unknown",
        "nsln": WORDS[nsln.value] if nsln else "unknown",
        **{name.value: value for name, value in known.clinical.items()},
        "image": path.as_posix(),
        "sop_instance_uid": result.source_sop_instance_uid,
        "frame": str(result.source_frame),
        "x0": repr(x0),
        "y0": repr(y0),
        "x1": repr(x1),
        "y1": repr(y1),
        "flags": flags_of(result.roi, when),
    }


def enter(sessions: Sessions, found: Snapshot, by: str, at: datetime) -> None:
    """Enter a frozen snapshot into the database; entered again, it changes nothing."""
    crops = found.crops
    first, second = crops.for_stage(Stage.SLN), crops.for_stage(Stage.NSLN)
    row = {
        "snapshot_id": found.id,
        "as_of": datetime.fromisoformat(found.sources["as_of"]),
        "created_at": at,
        "created_by": by,
        "cases": len(found),
        "sln_positive": int(first.labels.sum()),
        "sln_known": len(first),
        "nsln_positive": int(second.labels.sum()),
        "nsln_known": len(second),
        "results": found.sources["results"],
        "exclusions": [f"{name}: {n}" for name, n in reasons(found.exclusions).items()],
    }
    with sessions.begin() as session:
        insert_missing(session, SnapshotRow, [row], "snapshot_id")
