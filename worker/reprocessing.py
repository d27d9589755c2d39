"""Doing many studies again: which, from where on, and what it would cost.

A batch has a name, and each of its studies notes it in its history. A batch that was
cut short is started again under its name: what it did is passed over. Its studies let
live ones pass.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from dicom_node import arrivals, ledger, outbox
from dicom_node.destination import Destination
from dicom_node.errors import NotFoundError, StudyStateError
from dicom_node.findings import Stage
from dicom_node.study import Reason, StudyState, StudyUid
from dicom_node.tables import EventRow, InstanceRow, StudyRow
from worker import manifest, models, outcomes
from worker.tables import CaseRow, KeptRow, ResultRow, StageRow

NOTED: Final = "reprocess"
RECENT: Final = 200
"""Results whose time tells what one more costs."""

AT_ONCE: Final = 1000
"""Studies that one query names; databases bound the parameters of a statement."""

BUSY: Final = frozenset({StudyState.RECEIVING, StudyState.ANALYZING})
"""States from which a study moves on by itself; it cannot be taken up then."""

WAITING: Final = BUSY | {StudyState.QUEUED}


class Start(StrEnum):
    """Where in the chain a study is taken up again.

    From the rectangles on: what is marked and chosen is looked at anew, and only a
    changed input makes a new result. From inference on: the active models score the
    same input. From the report on: the numbers stand, the report is written anew. From
    delivery on: the documents that exist are sent again, as they are.
    """

    ROI = "roi"
    INFERENCE = "inference"
    REPORT = "report"
    DELIVERY = "delivery"


FROM_KEPT: Final = frozenset({Start.INFERENCE, Start.REPORT})
"""What can be done anew from the kept slice and crop alone."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which studies; each field that is given narrows.

    `model` is NAME@VERSION in the newest result of a case, of either stage. Scores
    are the calibrated probabilities of `stage` in the newest result, both bounds
    included. Days are those of the MRI, by its header.
    """

    uids: tuple[StudyUid, ...] = ()
    patient_key: str | None = None
    received: tuple[datetime | None, datetime | None] = (None, None)
    studied: tuple[date | None, date | None] = (None, None)
    state: StudyState | None = None
    reason: Reason | None = None
    model: str | None = None
    stage: Stage = Stage.SLN
    scores: tuple[float | None, float | None] = (None, None)

    @property
    def is_everything(self) -> bool:
        """Say whether nothing narrows the choice."""
        return self == Wanted(stage=self.stage)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A study that is wanted, and why it is passed over if it is."""

    study_uid: StudyUid
    state: StudyState
    purged: bool
    skipped: str | None


def find(session: Session, wanted: Wanted) -> list[StudyRow]:
    """Return the studies that are wanted, the oldest first."""
    query = select(StudyRow).where(*_conditions(wanted)).order_by(StudyRow.received_at)
    return list(session.scalars(query))


def newest(session: Session, wanted: Wanted, limit: int) -> list[StudyUid]:
    """Return the wanted studies that received last, the last one first."""
    query = (
        select(StudyRow.study_uid)
        .where(*_conditions(wanted))
        .order_by(StudyRow.last_received_at.desc(), StudyRow.study_uid)
        .limit(limit)
    )
    return [StudyUid(uid) for uid in session.scalars(query)]


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    found = _between(StudyRow.last_received_at, wanted.received)
    found += _of_newest(wanted)
    if wanted.uids:
        found.append(StudyRow.study_uid.in_(wanted.uids))
    exact = (
        (StudyRow.patient_key, wanted.patient_key),
        (StudyRow.state, wanted.state),
        (StudyRow.reason, wanted.reason),
    )
    found += [column == value for column, value in exact if value is not None]
    return found


def _between(
    column: Any,  # noqa: ANN401 - a column of the type of the bounds
    bounds: tuple[object, object],
) -> list[ColumnElement[bool]]:
    low, high = bounds
    at_least = [] if low is None else [column >= low]
    return at_least if high is None else [*at_least, column <= high]


def _of_newest(wanted: Wanted) -> list[ColumnElement[bool]]:
    """Return the conditions on cases and their newest results, as one subquery each."""
    found: list[ColumnElement[bool]] = []
    if wanted.studied != (None, None):
        days = _between(CaseRow.studied_on, wanted.studied)
        found.append(exists().where(CaseRow.study_uid == StudyRow.study_uid, *days))
    of_case = (
        CaseRow.study_uid == StudyRow.study_uid,
        StageRow.result_id == CaseRow.result_id,
    )
    if wanted.model is not None:
        found.append(exists().where(*of_case, StageRow.model == wanted.model))
    if wanted.scores != (None, None):
        scores = _between(StageRow.probability, wanted.scores)
        found.append(exists().where(*of_case, StageRow.stage == wanted.stage, *scores))
    return found


@dataclass(frozen=True, slots=True)
class InService:
    """What a stage scores with now: weights and threshold."""

    weights_sha256: str
    threshold: float


def demand_scorer(session: Session, model: str) -> None:
    """Refuse a model that scored nothing here: its name may be misspelt.

    Raises:
        NotFoundError: No result is of this NAME@VERSION.
    """
    if session.scalar(select(exists().where(StageRow.model == model))):
        return
    known = session.scalars(select(StageRow.model).distinct().order_by(StageRow.model))
    names = ", ".join(name for name in known if name) or "none"
    raise NotFoundError(f"no result is of the model {model}; there are: {names}")


def in_service(session: Session, models_dir: Path) -> dict[Stage, InService]:
    """Return what each stage would score with now.

    Raises:
        SettingsError: A model's manifest cannot be read.
    """
    thresholds = outcomes.thresholds(session)
    found = {}
    for stage, active in outcomes.activations(session).items():
        folder = models.folder(models_dir, active.name, active.version)
        own = manifest.read(folder).operating_threshold.value
        site = thresholds.get(stage)
        found[stage] = InService(active.weights_sha256, site[0] if site else own)
    return found


Scored = tuple[Stage, str | None, float | None]
"""A stage of a newest result with the weights and the threshold that it used."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch does: where it starts, its name, and what is in service.

    With `force` a study that the active models have scored already is scored again;
    `bulk` work lets live studies pass.
    """

    start: Start
    batch: str
    serving: Mapping[Stage, InService]
    force: bool = False
    bulk: bool = True


def consider(session: Session, rows: Sequence[StudyRow], plan: Plan) -> list[Candidate]:
    """Say of each study whether the batch takes it, and if not, why."""
    parts = (rows[at : at + AT_ONCE] for at in range(0, len(rows), AT_ONCE))
    return [one for part in parts for one in _consider(session, part, plan)]


def _consider(
    session: Session, rows: Sequence[StudyRow], plan: Plan
) -> Iterator[Candidate]:
    uids = [row.study_uid for row in rows]
    done = set(
        session.scalars(
            select(EventRow.study_uid).where(
                EventRow.study_uid.in_(uids),
                EventRow.what == NOTED,
                EventRow.detail == _note(plan),
            )
        )
    )
    purged = set(
        session.scalars(
            select(InstanceRow.study_uid)
            .where(InstanceRow.study_uid.in_(uids), InstanceRow.purged_at.is_not(None))
            .distinct()
        )
    )
    kept = set(
        session.scalars(
            select(KeptRow.study_uid).where(
                KeptRow.study_uid.in_(uids), KeptRow.released_at.is_(None)
            )
        )
    )
    results = _newest(session, uids)
    for row in rows:
        why = "done in this batch" if row.study_uid in done else None
        why = why or _passed_over(row, results.get(row.study_uid, []), plan)
        if plan.start in FROM_KEPT and row.study_uid in purged - kept:
            why = why or "purged with what was kept: use --from roi --refetch"
        uid = StudyUid(row.study_uid)
        yield Candidate(uid, row.state, row.study_uid in purged, why)


def _newest(session: Session, uids: Sequence[str]) -> dict[str, list[Scored]]:
    """Return what the newest results were scored with: stage, weights, threshold."""
    rows = session.execute(
        select(
            CaseRow.study_uid,
            StageRow.stage,
            StageRow.weights_sha256,
            StageRow.threshold,
        )
        .join(StageRow, StageRow.result_id == CaseRow.result_id)
        .where(CaseRow.study_uid.in_(uids))
    )
    found: dict[str, list[Scored]] = {}
    for uid, stage, weights, threshold in rows:
        found.setdefault(uid, []).append((stage, weights, threshold))
    return found


def _passed_over(row: StudyRow, scored: Sequence[Scored], plan: Plan) -> str | None:
    if plan.start in {Start.DELIVERY, Start.REPORT} and not scored:
        return "no result yet"
    if plan.start is Start.DELIVERY:
        return None
    return _waits(row) or _is_done(scored, plan)


def _waits(row: StudyRow) -> str | None:
    if row.state in BUSY:
        return f"{row.state} now"
    if row.reason in arrivals.FROZEN:
        return f"{row.state}: {row.reason}, for a person"
    return None


def _is_done(scored: Sequence[Scored], plan: Plan) -> str | None:
    if plan.start is not Start.INFERENCE or plan.force or not scored:
        return None
    current = all(_is_current(one, plan.serving) for one in scored)
    return "scored by the active models already" if current else None


def _is_current(scored: Scored, serving: Mapping[Stage, InService]) -> bool:
    stage, weights, threshold = scored
    if weights is None:
        return True  # this stage did not run
    return serving.get(stage) == InService(weights, threshold or 0.0)


def take_up(
    session: Session,
    uid: StudyUid,
    plan: Plan,
    destinations: Sequence[Destination],
    signed: tuple[str, datetime],
) -> None:
    """Take one study up again; what is committed with this call is not done twice.

    Args:
        session: A writing session.
        uid: The study.
        plan: The batch.
        destinations: Where documents go too, when they are sent again.
        signed: Who does it, and when.

    Raises:
        StudyNotFoundError: There is no such study.
        StudyStateError: It moved on meanwhile, or waits for a person.
    """
    by, at = signed
    if plan.start is Start.DELIVERY:
        newest = select(CaseRow.result_id).where(CaseRow.study_uid == uid)
        for result_id in session.scalars(newest):
            outbox.resend(session, result_id, destinations, by, at)
    else:
        current = ledger.lock(session, uid)
        if current.reason is Reason.BY_HAND:
            raise StudyStateError(f"study {uid} is {current.state} by hand")
        if current.state is not StudyState.QUEUED:  # what waits already keeps its place
            why = f"reprocessed from {plan.start} on by {by}"
            ledger.requeue(session, uid, at, why, bulk=plan.bulk)
    if plan.start is Start.INFERENCE:
        outcomes.mark_stale(session, uid)
    if plan.start is Start.REPORT:
        outcomes.mark_rewrite(session, uid)
    note(session, uid, plan, at)


def note(session: Session, uid: StudyUid, plan: Plan, at: datetime) -> None:
    """Note that a batch has done its part for a study."""
    ledger.note(session, uid, NOTED, _note(plan), at)


def _note(plan: Plan) -> str:
    return f"batch {plan.batch}, from {plan.start}"


def cost_ms(session: Session, start: Start) -> float | None:
    """Return the median time of one case from there on, None before any result."""
    columns = {
        Start.ROI: (ResultRow.total_ms,),
        Start.INFERENCE: (ResultRow.total_ms,),
        Start.REPORT: (ResultRow.select_ms, ResultRow.decode_ms, ResultRow.report_ms),
        Start.DELIVERY: (),
    }[start]
    if not columns:
        return None
    rows = session.execute(
        select(*columns).order_by(ResultRow.created_at.desc()).limit(RECENT)
    ).all()
    return statistics.median(sum(row) for row in rows) if rows else None


def standing(session: Session, batch: str) -> dict[StudyState, int]:
    """Return how many studies of a batch are in which state now."""
    of_batch = exists().where(
        EventRow.study_uid == StudyRow.study_uid,
        EventRow.what == NOTED,
        EventRow.detail.startswith(f"batch {batch}, ", autoescape=True),
    )
    rows = session.execute(
        select(StudyRow.state, func.count()).where(of_batch).group_by(StudyRow.state)
    )
    return dict(rows.all())
