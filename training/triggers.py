"""When a stage is trained again: a pure decision on counts."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.findings import Stage
from training import known_labels, monitor
from training.settings import TrainingSettings
from worker import outcomes, registry
from worker.model_tables import RetrainingRow, RetrainingState


@dataclass(frozen=True, slots=True)
class Counts:
    """What is known of a stage now.

    `cases` are labelled, `positives` of them positive; `new` ones and `new_positives`
    were labelled since `since`: when the champion was made, or when training was last
    tried. `drift` names the confirmed alarm, if there is one.
    """

    stage: Stage
    cases: int
    positives: int
    new: int
    new_positives: int
    since: datetime | None
    champion: str | None
    drift: str | None


@dataclass(frozen=True, slots=True)
class Due:
    """Whether to train, and why or why not, in a sentence."""

    train: bool
    why: str


def count(session: Session, stage: Stage, settings: TrainingSettings) -> Counts:
    """Look up what the triggers are about."""
    known = known_labels.known(session, stage, itc_is_positive=settings.itc_is_positive)
    active = outcomes.activations(session).get(stage)
    since = _last_tried(session, stage)
    alarm = None
    if active is not None:
        made = [
            one.created_at
            for one in registry.versions(session, stage)
            if one.reference == active.reference
        ]
        since = max(x for x in (since, *made, active.activated_at) if x)
        alarm = monitor.confirmed(session, stage, active.reference)
    fresh = [one for one in known.values() if since is None or one.known_at > since]
    return Counts(
        stage=stage,
        cases=len(known),
        positives=sum(one.value for one in known.values()),
        new=len(fresh),
        new_positives=sum(one.value for one in fresh),
        since=since,
        champion=active.reference if active else None,
        drift=alarm.detail if alarm is not None and _after(alarm.at, since) else None,
    )


def _after(at: datetime, since: datetime | None) -> bool:
    return since is None or at > since


def _last_tried(session: Session, stage: Stage) -> datetime | None:
    return session.scalar(
        select(func.max(RetrainingRow.started_at)).where(
            RetrainingRow.stage == stage,
            RetrainingRow.state != RetrainingState.RUNNING,
        )
    )


def due(counts: Counts, settings: TrainingSettings, at: datetime) -> Due:
    """Decide whether a stage is trained now."""
    short = too_few(counts, settings)
    if short is not None:
        return Due(train=False, why=short)
    if counts.since is None:
        why = f"a first model: {counts.cases} labelled, {counts.positives} positive"
        return Due(train=True, why=why)
    age = at - counts.since
    if age < timedelta(days=settings.retrain_days):
        why = f"{age.days} days since the last, {settings.retrain_days:g} are needed"
        return Due(train=False, why=why)
    return _reason(counts, settings, age)


def too_few(counts: Counts, settings: TrainingSettings) -> str | None:
    """Say what is missing to train at all; None: nothing is."""
    if counts.stage is Stage.NSLN:
        wanted = (settings.retrain_nsln_cases, 1)
    else:
        wanted = (settings.retrain_first_cases, settings.retrain_first_positives)
    if counts.cases >= wanted[0] and counts.positives >= wanted[1]:
        return None
    return (
        f"{counts.cases} labelled cases with {counts.positives} positive; "
        f"{wanted[0]} with {wanted[1]} are needed"
    )


def _reason(counts: Counts, settings: TrainingSettings, age: timedelta) -> Due:
    enough = (
        counts.new >= settings.retrain_cases
        and counts.new_positives >= settings.retrain_positives
    )
    fresh = f"{counts.new} new cases with {counts.new_positives} positive"
    every = settings.retrain_every_days
    if enough:
        return Due(train=True, why=fresh)
    if counts.drift is not None:
        return Due(train=True, why=f"drift {counts.drift}")
    if every is not None and age >= timedelta(days=every):
        return Due(train=True, why=f"{every:g} days since the last")
    return Due(
        train=False,
        why=f"{fresh}; {settings.retrain_cases} with {settings.retrain_positives} are "
        "needed, and no drift is confirmed",
    )
