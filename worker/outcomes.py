"""The only reader and writer of results, pathology, activations and thresholds.

Callers own the transaction. Rows stay inside; values go out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, cast

from sqlalchemy import CursorResult, desc, func, select, update
from sqlalchemy.orm import Session

from dicom_node import __version__
from dicom_node.errors import NotFoundError
from dicom_node.findings import (
    Laterality,
    Pathway,
    Proportion,
    Roi,
    SlndResult,
    Stage,
    StageFinding,
)
from dicom_node.study import SopInstanceUid, StudyUid
from worker.case import AnalyzedCase, Timings
from worker.tables import (
    ActivationKind,
    ActivationRow,
    CaseRow,
    ResultRow,
    SlndRow,
    StageRow,
    ThresholdRow,
)

STAGE_COLUMNS: Final = (
    "stage",
    "status",
    "probability",
    "threshold",
    "threshold_source",
    "risk",
    "dataset",
    "model",
    "weights_sha256",
    "preprocessing_sha256",
    "device",
    "torch_version",
    "cpu",
    "threads",
    "batch",
    "code_version",
)
"""Columns of `stage` that a StageFinding holds under the same name."""

ROI_COLUMNS: Final = (
    "carrier",
    "carrier_sop_instance_uid",
    "sop_instance_uid",
    "frame",
    "x0",
    "y0",
    "x1",
    "y1",
    "author",
    "label",
    "tracking_uid",
    "marked_at",
    "exact",
)
"""Fields of a Roi; its column has the prefix `roi_`."""

TIMING_COLUMNS: Final = tuple(Timings.__dataclass_fields__)


class ResultNotFoundError(NotFoundError):
    """No result has this identifier."""


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """One recorded result, as it was written."""

    result_id: str
    case_id: str
    study_uid: StudyUid
    laterality: Laterality
    version: int
    pathway: Pathway
    created_at: datetime
    supersedes: str | None
    superseded_by: str | None
    discordant: bool
    roi: Roi
    source_sop_instance_uid: SopInstanceUid
    source_frame: int
    phase: str
    laterality_derived: bool
    area_mm2: float
    candidates: int
    why: tuple[str, ...]
    input_sop_instance_uids: tuple[str, ...]
    input_sha256: str
    code_version: str | None
    stages: tuple[StageFinding, ...]
    slnd: SlndResult | None
    timings: Timings


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """Where one case stands, and every version of its result, oldest first."""

    case_id: str
    study_uid: StudyUid
    laterality: Laterality
    pathway: Pathway
    stale: bool
    rewrite: bool
    studied_on: date | None
    opened_at: datetime
    results: tuple[ResultRecord, ...]

    @property
    def newest(self) -> ResultRecord:
        """The result that counts."""
        return self.results[-1]


@dataclass(frozen=True, slots=True)
class SlndRecord:
    """One SLND result with its case; `counts` is False once another came after it."""

    study_uid: StudyUid
    laterality: Laterality
    slnd: SlndResult
    recorded_by: str
    counts: bool


@dataclass(frozen=True, slots=True)
class Activation:
    """Which model serves a stage, since when, by whose hand."""

    activation_id: int
    stage: Stage
    name: str
    version: str
    weights_sha256: str
    activated_at: datetime
    activated_by: str
    kind: ActivationKind = ActivationKind.ACTIVATED
    reason: str | None = None

    @property
    def reference(self) -> str:
        """NAME@VERSION, as people and `models activate` write it."""
        return f"{self.name}@{self.version}"


def record(session: Session, study_uid: StudyUid, analyzed: AnalyzedCase) -> None:
    """Write one new version of a case; the earlier version learns its successor."""
    finding = analyzed.finding
    row = session.get(CaseRow, analyzed.case_id)
    if row is None:
        row = CaseRow(
            case_id=analyzed.case_id,
            study_uid=study_uid,
            laterality=finding.selection.laterality,
            opened_at=finding.created_at,
        )
        session.add(row)
    row.pathway = finding.pathway
    row.result_id = finding.result_id
    row.stale = row.rewrite = False
    row.studied_on = analyzed.studied_on or row.studied_on
    row.updated_at = finding.created_at
    session.flush()
    session.add(_result_row(study_uid, analyzed))
    session.flush()
    for stage in (finding.sln, finding.nsln):
        session.add(_stage_row(finding.result_id, stage))
    if analyzed.supersedes:
        session.execute(
            update(ResultRow)
            .where(ResultRow.result_id == analyzed.supersedes)
            .values(superseded_by=finding.result_id)
        )


def _result_row(study_uid: StudyUid, analyzed: AnalyzedCase) -> ResultRow:
    finding = analyzed.finding
    chosen = finding.selection
    return ResultRow(
        result_id=finding.result_id,
        case_id=analyzed.case_id,
        study_uid=study_uid,
        laterality=chosen.laterality,
        version=finding.version,
        pathway=finding.pathway,
        created_at=finding.created_at,
        supersedes=analyzed.supersedes,
        discordant=finding.discordant,
        slnd_id=finding.slnd.slnd_id if finding.slnd else None,
        **{f"roi_{name}": getattr(chosen.roi, name) for name in ROI_COLUMNS},
        source_sop_instance_uid=chosen.sop_instance_uid,
        source_frame=chosen.frame,
        phase=chosen.phase,
        laterality_derived=chosen.laterality_derived,
        area_mm2=chosen.area_mm2,
        candidates=chosen.candidates,
        why=list(chosen.why),
        input_sop_instance_uids=list(analyzed.input_sop_instance_uids),
        input_sha256=analyzed.input_sha256,
        code_version=__version__,
        scanner=analyzed.scanner,
        **{name: getattr(analyzed.timings, name) for name in TIMING_COLUMNS},
    )


def _stage_row(result_id: str, stage: StageFinding) -> StageRow:
    row = StageRow(
        result_id=result_id,
        **{name: getattr(stage, name) for name in STAGE_COLUMNS},
    )
    for name in ("sensitivity", "specificity"):
        rate: Proportion | None = getattr(stage, name)
        for part in ("k", "n", "low", "high"):
            setattr(row, f"{name}_{part}", getattr(rate, part) if rate else None)
    return row


def _stage(row: StageRow) -> StageFinding:
    return StageFinding(
        **{name: getattr(row, name) for name in STAGE_COLUMNS},
        sensitivity=_rate(row, "sensitivity"),
        specificity=_rate(row, "specificity"),
    )


def _rate(row: StageRow, name: str) -> Proportion | None:
    k, n, low, high = (
        getattr(row, f"{name}_{part}") for part in ("k", "n", "low", "high")
    )
    return None if n is None else Proportion(k, n, low, high)


def _slnd(row: SlndRow) -> SlndResult:
    return SlndResult(
        result=row.result,
        deposit=row.deposit,
        performed_on=row.performed_on,
        source=row.source,
        recorded_at=row.recorded_at,
        slnd_id=row.slnd_id,
    )


def _records(session: Session, rows: Sequence[ResultRow]) -> list[ResultRecord]:
    """Join results with their stages and SLND in three queries, however many."""
    stages: dict[str, list[StageFinding]] = {row.result_id: [] for row in rows}
    for stage in session.scalars(
        select(StageRow).where(StageRow.result_id.in_(stages)).order_by(StageRow.stage)
    ):
        stages[stage.result_id].append(_stage(stage))
    ids = {row.slnd_id for row in rows if row.slnd_id is not None}
    slnd = {
        row.slnd_id: _slnd(row)
        for row in session.scalars(select(SlndRow).where(SlndRow.slnd_id.in_(ids)))
    }
    return [_record(row, stages[row.result_id], slnd) for row in rows]


def _record(
    row: ResultRow, stages: Sequence[StageFinding], slnd: Mapping[int, SlndResult]
) -> ResultRecord:
    order = list(Stage)
    return ResultRecord(
        result_id=row.result_id,
        case_id=row.case_id,
        study_uid=StudyUid(row.study_uid),
        laterality=row.laterality,
        version=row.version,
        pathway=row.pathway,
        created_at=row.created_at,
        supersedes=row.supersedes,
        superseded_by=row.superseded_by,
        discordant=row.discordant,
        roi=Roi(**{name: getattr(row, f"roi_{name}") for name in ROI_COLUMNS}),
        source_sop_instance_uid=SopInstanceUid(row.source_sop_instance_uid),
        source_frame=row.source_frame,
        phase=row.phase,
        laterality_derived=row.laterality_derived,
        area_mm2=row.area_mm2,
        candidates=row.candidates,
        why=tuple(row.why),
        input_sop_instance_uids=tuple(row.input_sop_instance_uids),
        input_sha256=row.input_sha256,
        code_version=row.code_version,
        stages=tuple(sorted(stages, key=lambda stage: order.index(stage.stage))),
        slnd=slnd[row.slnd_id] if row.slnd_id is not None else None,
        timings=Timings(**{name: getattr(row, name) for name in TIMING_COLUMNS}),
    )


def results(
    session: Session, study_uid: str | None = None, limit: int | None = None
) -> list[ResultRecord]:
    """Return results, newest first; of one study, or of all."""
    query = select(ResultRow).order_by(
        desc(ResultRow.created_at), desc(ResultRow.version)
    )
    if study_uid is not None:
        query = query.where(ResultRow.study_uid == study_uid)
    return _records(session, session.scalars(query.limit(limit)).all())


def of_ids(session: Session, result_ids: Sequence[str]) -> list[ResultRecord]:
    """Return the results of these identifiers, oldest first."""
    query = select(ResultRow).where(ResultRow.result_id.in_(result_ids))
    rows = session.scalars(query.order_by(ResultRow.created_at, ResultRow.version))
    return _records(session, rows.all())


def result(session: Session, result_id: str) -> ResultRecord:
    """Return one result.

    Raises:
        ResultNotFoundError: There is none of this identifier.
    """
    row = session.get(ResultRow, result_id)
    if row is None:
        raise ResultNotFoundError(f"no result {result_id}")
    return _records(session, [row])[0]


def cases(session: Session, study_uid: str) -> list[CaseRecord]:
    """Return the cases of a study, left before right."""
    by_case: dict[str, list[ResultRecord]] = {}
    for one in reversed(results(session, study_uid)):
        by_case.setdefault(one.case_id, []).append(one)
    rows = session.scalars(
        select(CaseRow)
        .where(CaseRow.study_uid == study_uid)
        .order_by(CaseRow.laterality)
    )
    return [
        CaseRecord(
            case_id=row.case_id,
            study_uid=StudyUid(row.study_uid),
            laterality=row.laterality,
            pathway=row.pathway,
            stale=row.stale,
            rewrite=row.rewrite,
            studied_on=row.studied_on,
            opened_at=row.opened_at,
            results=tuple(sorted(by_case[row.case_id], key=lambda one: one.version)),
        )
        for row in rows
    ]


def mark_stale(session: Session, study_uid: str) -> int:
    """Ask for a new version of every case of a study; return how many there are."""
    return _mark(session, study_uid, stale=True)


def mark_rewrite(session: Session, study_uid: str) -> int:
    """Ask for every report of a study to be written anew, its numbers as they stand."""
    return _mark(session, study_uid, rewrite=True)


def _mark(session: Session, study_uid: str, **flags: bool) -> int:
    marked = update(CaseRow).where(CaseRow.study_uid == study_uid).values(**flags)
    return cast("CursorResult[Any]", session.execute(marked)).rowcount


def record_slnd(  # noqa: PLR0913, PLR0917 - the columns of one row
    session: Session,
    study_uid: str,
    laterality: Laterality,
    slnd: SlndResult,
    recorded_by: str,
    message_id: int | None = None,
) -> int:
    """Append an SLND result of one side and return its identifier.

    What may be recorded is decided by `worker.slnd`.
    """
    row = SlndRow(
        study_uid=study_uid,
        laterality=laterality,
        result=slnd.result,
        deposit=slnd.deposit,
        performed_on=slnd.performed_on,
        source=slnd.source,
        recorded_at=slnd.recorded_at,
        recorded_by=recorded_by,
        message_id=message_id,
    )
    session.add(row)
    session.flush()
    return row.slnd_id


def slnd_results(session: Session, study_uid: str) -> dict[Laterality, SlndResult]:
    """Return the SLND result that counts, the newest, of each side."""
    rows = session.scalars(
        select(SlndRow).where(SlndRow.study_uid == study_uid).order_by(SlndRow.slnd_id)
    )
    return {row.laterality: _slnd(row) for row in rows}


def slnd_history(session: Session, study_uid: str | None = None) -> list[SlndRecord]:
    """Return every SLND result, oldest first; of one study, or of all."""
    query = select(SlndRow).order_by(SlndRow.slnd_id)
    if study_uid is not None:
        query = query.where(SlndRow.study_uid == study_uid)
    rows = session.scalars(query).all()
    newest = {(row.study_uid, row.laterality): row.slnd_id for row in rows}
    return [
        SlndRecord(
            study_uid=StudyUid(row.study_uid),
            laterality=row.laterality,
            slnd=_slnd(row),
            recorded_by=row.recorded_by,
            counts=newest[row.study_uid, row.laterality] == row.slnd_id,
        )
        for row in rows
    ]


def activate(  # noqa: PLR0913, PLR0917 - the columns of one row
    session: Session,
    stage: Stage,
    model: tuple[str, str, str],
    by: str,
    at: datetime,
    why: tuple[ActivationKind, str | None] = (ActivationKind.ACTIVATED, None),
) -> None:
    """Put a model (name, version, SHA-256 of its weights) into service.

    `worker.registry` writes the model's status with it.
    """
    name, version, weights_sha256 = model
    session.add(
        ActivationRow(
            stage=stage,
            name=name,
            version=version,
            weights_sha256=weights_sha256,
            activated_at=at,
            activated_by=by,
            kind=why[0],
            reason=why[1],
        )
    )


def activations(session: Session) -> dict[Stage, Activation]:
    """Return the model in service of each stage that has one."""
    newest = select(func.max(ActivationRow.activation_id)).group_by(ActivationRow.stage)
    rows = session.scalars(
        select(ActivationRow).where(ActivationRow.activation_id.in_(newest))
    )
    return {row.stage: _activation(row) for row in rows}


def deployments(session: Session, stage: Stage) -> list[Activation]:
    """Return every activation of a stage, oldest first."""
    rows = session.scalars(
        select(ActivationRow)
        .where(ActivationRow.stage == stage)
        .order_by(ActivationRow.activation_id)
    )
    return [_activation(row) for row in rows]


def _activation(row: ActivationRow) -> Activation:
    return Activation(
        activation_id=row.activation_id,
        stage=row.stage,
        name=row.name,
        version=row.version,
        weights_sha256=row.weights_sha256,
        activated_at=row.activated_at,
        activated_by=row.activated_by,
        kind=row.kind or ActivationKind.ACTIVATED,
        reason=row.reason,
    )


def set_threshold(
    session: Session,
    stage: Stage,
    threshold: float | None,
    reason: str,
    by: tuple[str, datetime],
) -> None:
    """Set the site's threshold of a stage; None returns to the manifest's."""
    set_by, set_at = by
    session.add(
        ThresholdRow(
            stage=stage,
            threshold=threshold,
            reason=reason,
            set_by=set_by,
            set_at=set_at,
        )
    )


def thresholds(session: Session) -> dict[Stage, tuple[float, str]]:
    """Return the site's thresholds with their reasons, of stages that have one."""
    rows = session.scalars(select(ThresholdRow).order_by(ThresholdRow.threshold_id))
    newest = {row.stage: (row.threshold, row.reason) for row in rows}
    return {
        stage: (value, reason)
        for stage, (value, reason) in newest.items()
        if value is not None
    }
