"""The retraining loop: freeze, train, publish, compare, report, and promote if allowed.

One trainer works at a time, by a lease in the database. Each step is durable and does
nothing when its outcome is there, so a run that was killed goes on behind its last
step; after some attempts it is abandoned and its files are removed.
"""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select, update

from dicom_node.db import now
from dicom_node.errors import NodeError, SettingsError, StateError
from dicom_node.findings import Stage
from dicom_node.settings import patient_secret
from training import (
    lease,
    live,
    registry,
    shadow,
    snapshot,
    triggers,
    webhook,
    workshop,
)
from training.gate import Report
from training.registry import PromotionRefusedError
from training.site import Site
from training.snapshot import Snapshot
from training.triggers import Due
from training.workshop import LostLeaseError
from worker import models, outcomes
from worker import registry as versions
from worker.manifest import MANIFEST_NAME
from worker.model_tables import RetrainingRow, RetrainingState, VersionStatus
from worker.registry import Decision, ModelVersion
from worker.tables import ActivationKind

log = logging.getLogger(__name__)

LEASE: Final = "retraining"
TRAINER: Final = "trainer"
BEATS: Final = 3  # renewals within the term of a lease


@dataclass(slots=True)
class Shift:
    """The time in which this process holds the lease; `beat` renews it."""

    site: Site
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)
    renewed: datetime | None = None

    def begin(self) -> None:
        """Take the lease.

        Raises:
            StateError: Another trainer has it.
        """
        if not self._take():
            raise StateError(
                "another retraining is under way: wait for it; one that was killed "
                f"lets go within {self.site.settings.retrain_lease}"
            )

    def beat(self) -> None:
        """Renew the lease now and then.

        Raises:
            LostLeaseError: It ran out and another trainer took it.
        """
        due = self.site.settings.retrain_lease / BEATS
        if self.renewed is not None and now() - self.renewed < due:
            return
        if not self._take():
            raise LostLeaseError("another trainer took over")

    def end(self) -> None:
        """Let the lease go."""
        with self.site.sessions.begin() as session:
            lease.release(session, LEASE, self.holder)

    def _take(self) -> bool:
        at = now()
        term = (at, self.site.settings.retrain_lease)
        with self.site.sessions.begin() as session:
            taken = lease.take(session, LEASE, self.holder, term)
        self.renewed = at
        return taken


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of looking at one stage: nothing to do, or a run."""

    stage: Stage
    trained: bool
    why: str
    run: str | None = None
    state: str | None = None
    model: str | None = None
    promoted: bool = False
    codes: tuple[str, ...] = ()
    report: dict[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Run:
    """One retraining under way, and where its files are."""

    identifier: str
    stage: Stage
    trigger: str
    folder: Path


def look(site: Site, stage: Stage, at: datetime) -> Due:
    """Say whether a stage is due; changes nothing."""
    with site.sessions() as session:
        unfinished = session.scalar(
            select(RetrainingRow.retraining_id).where(
                RetrainingRow.stage == stage,
                RetrainingRow.state == RetrainingState.RUNNING,
            )
        )
        counts = triggers.count(session, stage, site.settings)
    if unfinished is not None:
        return Due(train=True, why=f"run {unfinished} was interrupted")
    return triggers.due(counts, site.settings, at)


def retrain(
    site: Site, stage: Stage, *, at_once: bool = False, rotate: bool = False
) -> Outcome:
    """Train a stage when it is due, and see it through to its report.

    Args:
        site: The installation.
        stage: Which.
        at_once: A person asks: no trigger is waited for.
        rotate: Freeze newer held-out cases first.

    Raises:
        StateError: Another trainer works.
    """
    shift = Shift(site)
    shift.begin()
    try:
        run = _resume(site, stage)
        if run is None:
            due = look(site, stage, now())
            if not (due.train or at_once):
                return Outcome(stage, trained=False, why=due.why)
            why = due.why if due.train else "asked for by a person"
            run = _open(site, stage, why)
        return _conclude(site, run, lambda: _steps(site, run, shift, rotate=rotate))
    finally:
        shift.end()


def _resume(site: Site, stage: Stage) -> Run | None:
    """Return the run that was interrupted; one tried too often is abandoned."""
    with site.sessions.begin() as session:
        row = session.scalar(
            select(RetrainingRow).where(
                RetrainingRow.stage == stage,
                RetrainingRow.state == RetrainingState.RUNNING,
            )
        )
        if row is None:
            return None
        row.attempts += 1
        if row.attempts <= site.settings.retrain_attempts:
            folder = workshop.run_folder(site.settings.workshop, row.retraining_id)
            return Run(row.retraining_id, stage, row.trigger, folder)
        row.state, row.ended_at = RetrainingState.ABANDONED, now()
        row.detail = f"interrupted {row.attempts - 1} times after step {row.step}"
        identifier = row.retraining_id
    workshop.discard(site.settings.workshop, identifier)
    return None


def _open(site: Site, stage: Stage, trigger: str) -> Run:
    identifier = str(uuid.uuid4())
    with site.sessions.begin() as session:
        session.add(
            RetrainingRow(
                retraining_id=identifier,
                stage=stage,
                state=RetrainingState.RUNNING,
                trigger=trigger,
                step="opened",
                attempts=1,
                started_at=now(),
            )
        )
    folder = workshop.run_folder(site.settings.workshop, identifier)
    folder.mkdir(parents=True, exist_ok=True)
    return Run(identifier, stage, trigger, folder)


def _conclude(site: Site, run: Run, steps: Callable[[], Outcome]) -> Outcome:
    """Take the steps, write down how they ended, and tell the webhook."""
    try:
        outcome = steps()
    except LostLeaseError:
        raise  # the other trainer writes down how it ends
    except NodeError as error:
        outcome = Outcome(
            run.stage,
            trained=False,
            why=str(error),
            run=run.identifier,
            state=RetrainingState.FAILED,
        )
        log.error("retraining failed", extra={"run": run.identifier})  # noqa: TRY400
    _note(
        site,
        run,
        state=outcome.state,
        ended_at=now(),
        model=outcome.model,
        detail=outcome.why,
    )
    settings = site.settings
    if settings.retrain_webhook is not None:
        message = _message(run, outcome)
        secret = settings.retrain_webhook_secret_file
        if webhook.post(settings.retrain_webhook, message, secret):
            _note(site, run, reported_at=now())
    return outcome


def _note(site: Site, run: Run, **values: object) -> None:
    with site.sessions.begin() as session:
        session.execute(
            update(RetrainingRow)
            .where(RetrainingRow.retraining_id == run.identifier)
            .values(**values)
        )


def _steps(site: Site, run: Run, shift: Shift, *, rotate: bool) -> Outcome:
    run.folder.mkdir(parents=True, exist_ok=True)
    found = _freeze(site, run, shift)
    _note(site, run, step="frozen", snapshot_id=found.id)
    made = _train(site, run, shift)
    _note(site, run, step="trained")
    shift.beat()
    by = Decision(TRAINER, now(), f"run {run.identifier}: {run.trigger}")
    candidate = registry.publish(made, site, found, by)
    _note(site, run, step="published", model=candidate.reference)
    shift.beat()
    heldout = workshop.holdout(site.settings.workshop, found, rotate=rotate)
    if candidate.status is not VersionStatus.CANDIDATE:
        why = f"the same data gave {candidate.reference} again, {candidate.status}"
        return _outcome(run, candidate, None, why)
    report = registry.compare(site, candidate.reference, None, heldout, by)
    _note(site, run, step="compared")
    shift.beat()
    return _decide(site, run, candidate, report)


def _freeze(site: Site, run: Run, shift: Shift) -> Snapshot:
    """Freeze the cohort of now; a resumed run keeps the one that it froze."""
    target = run.folder / "snapshot"
    if target.exists():
        return snapshot.load(target, shift.beat)
    settings = site.settings
    installation = live.Installation(
        site.sessions, site.spool, patient_secret(settings), settings.itc_is_positive
    )
    plan = live.Plan(now(), settings.retrain_centre, settings.retrain_external)
    collected = live.collect(installation, plan, shift.beat)
    found = snapshot.freeze(collected, target, shift.beat)
    live.enter(site.sessions, found, TRAINER, now())
    return found


def _train(site: Site, run: Run, shift: Shift) -> Path:
    """Train in another process; the same command goes on where it was killed."""
    out = run.folder / "models"
    done = _made(out, run.stage)
    if done is None:
        arguments = [
            *("train", "--cohort", str(run.folder / "snapshot")),
            *("--stage", run.stage.lower(), "--out", str(out)),
            *("--preset", site.settings.retrain_recipe, *_parent(site, run.stage)),
            *("--folds", str(site.settings.retrain_folds), "--workers", "1"),
        ]
        limit = site.settings.retrain_time_limit.total_seconds()
        workshop.run(arguments, run.folder / "train.log", limit, shift.beat)
        done = _made(out, run.stage)
    if done is None:
        raise SettingsError(f"training ended without a model in {out}")
    return done


def _parent(site: Site, stage: Stage) -> tuple[str, ...]:
    """Return what stage II starts from: the model of stage I in service."""
    if stage is Stage.SLN:
        return ()
    with site.sessions() as session:
        active = models.in_service(Stage.SLN, outcomes.activations(session))
    folder = models.folder(site.models, active.name, active.version)
    return "--parent", str(folder)


def _made(out: Path, stage: Stage) -> Path | None:
    found = [
        path.parent
        for path in sorted(out.glob(f"*/[!.]*/{MANIFEST_NAME}"))
        if models.verify(path.parent).stage is stage
    ]
    return found[-1] if found else None


def _decide(site: Site, run: Run, candidate: ModelVersion, report: Report) -> Outcome:
    """Promote, keep for a person's signature, or reject; nothing else changes."""
    reference = candidate.reference
    why = f"run {run.identifier}: {run.trigger}"
    if not report.promotable:
        codes = ", ".join(one.code for one in report.refusals)
        said = f"rejected by its comparison: {codes}"
        with site.sessions.begin() as session:
            versions.reject(session, reference, Decision(TRAINER, now(), said))
        return _outcome(run, candidate, report, said)
    if report.automatic:
        automatic = Decision(TRAINER, now(), why, ActivationKind.AUTOMATIC)
        try:
            registry.promote(site, reference, automatic)
        except PromotionRefusedError as error:
            return _outcome(run, candidate, report, str(error))
        return _outcome(run, candidate, report, "promoted", promoted=True)
    if report.champion is not None:
        shadow.start(site, reference, Decision(TRAINER, now()))
    said = "passed its comparison and waits for a person: `python -m training promote`"
    return _outcome(run, candidate, report, said)


def _outcome(
    run: Run,
    candidate: ModelVersion,
    report: Report | None,
    why: str,
    *,
    promoted: bool = False,
) -> Outcome:
    failed = tuple(one.code for one in report.checks if not one.holds) if report else ()
    return Outcome(
        run.stage,
        trained=True,
        why=why,
        run=run.identifier,
        state=RetrainingState.DONE,
        model=candidate.reference,
        promoted=promoted,
        codes=failed,
        report=report.document() if report else None,
    )


def _message(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Return what a webhook is told; no part of it is about one patient."""
    report = outcome.report or {}
    return {
        "event": "retraining",
        "run": run.identifier,
        "stage": run.stage,
        "trigger": run.trigger,
        "state": outcome.state,
        "model": outcome.model,
        "champion": report.get("champion"),
        "promoted": outcome.promoted,
        "promotable": report.get("promotable"),
        "codes": list(outcome.codes),
        "summary": outcome.why,
        "holdout": {key: report.get(key) for key in ("n", "positives", "looks")},
        "checks": [
            {key: check[key] for key in ("code", "holds", "sentence")}
            for check in report.get("checks", ())
        ],
        "at": now().isoformat(),
    }
