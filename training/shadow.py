"""Shadow mode: a candidate scores live cases beside the champion; nobody is told.

Its scores are rows of `shadow_score` and nothing else: no report, no delivery, no
decision. A case that is scored before its pathology comes is the cleanest held-out
case there is, so both models are compared on those once their labels arrive.
"""

import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.db import now
from dicom_node.errors import (
    ModelIntegrityError,
    NotFoundError,
    PermanentError,
    StateError,
)
from dicom_node.findings import Stage
from training import kept_cases, known_labels
from training.heldout import CPU
from training.kept_cases import LiveCase
from training.site import Site
from training.statistics.auc import AucInterval, auc_interval, compare
from worker import models, outcomes, preprocess, registry, weights
from worker.cascade import StageModel, score
from worker.model_tables import ShadowRow, ShadowScoreRow
from worker.registry import Decision

log = logging.getLogger(__name__)

BATCH: Final = 200
LOOKBACK: Final = 100_000
MIN_OF_EACH: Final = 2


@dataclass(frozen=True, slots=True)
class Shadow:
    """A candidate that scores live cases."""

    stage: Stage
    name: str
    version: str
    weights_sha256: str
    started_at: datetime
    started_by: str

    @property
    def reference(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Prospective:
    """Both models on the cases that the shadow scored before their label came.

    AUCs are None until there are enough cases of both classes; `difference` is shadow
    minus champion with its 95% interval (DeLong).
    """

    n: int
    positives: int
    shadow: AucInterval | None = None
    champion: AucInterval | None = None
    difference: tuple[float, float, float] | None = None
    p: float | None = None


def start(site: Site, reference: str, decision: Decision) -> Shadow:
    """Let an installed model score live cases; it takes the place of another shadow.

    Raises:
        NotFoundError: It is not registered or not installed.
        StateError: It serves already.
        ModelIntegrityError: The weights are not those that were registered.
    """
    with site.sessions() as session:
        version = registry.version(session, reference)
        active = outcomes.activations(session).get(version.stage)
    folder = models.folder(site.models, version.name, version.version)
    if not folder.is_dir():
        raise NotFoundError(f"model {reference} is not installed in {site.models}")
    if active is not None and active.reference == reference:
        raise StateError(f"{reference} serves already: it cannot be its own shadow")
    if models.verify(folder).weights_sha256 != version.weights_sha256:
        raise ModelIntegrityError(f"{reference} on disk is not what was registered")
    with site.sessions.begin() as session:
        _end(session, version.stage, decision.at)
        row = ShadowRow(
            stage=version.stage,
            name=version.name,
            version=version.version,
            weights_sha256=version.weights_sha256,
            started_at=decision.at,
            started_by=decision.by,
        )
        session.add(row)
        session.flush()
        return _value(row)


def stop(site: Site, stage: Stage, at: datetime) -> Shadow:
    """End the shadow of a stage; its scores stay.

    Raises:
        StateError: There is none.
    """
    with site.sessions.begin() as session:
        found = running(session).get(stage)
        if found is None:
            raise StateError(f"no model shadows stage {stage}")
        _end(session, stage, at)
        return found


def running(session: Session) -> dict[Stage, Shadow]:
    """Return the shadow of each stage that has one."""
    rows = session.scalars(select(ShadowRow).where(ShadowRow.stopped_at.is_(None)))
    return {row.stage: _value(row) for row in rows}


def score_pending(site: Site, limit: int = BATCH) -> int:
    """Score the newest cases that each shadow has not seen; return how many.

    A model whose files are not what was started is stopped, and said so in the log:
    the service must not notice a shadow.
    """
    with site.sessions() as session:
        shadows = running(session)
    return sum(_score_stage(site, one, limit) for one in shadows.values())


def _score_stage(site: Site, shadow: Shadow, limit: int) -> int:
    with site.sessions() as session:
        cases = kept_cases.newest(session, shadow.stage, limit, shadow.weights_sha256)
    if not cases:
        return 0
    try:
        model = _load(site, shadow)
    except PermanentError as error:
        log.error("shadow stopped", extra={"error": str(error)})  # noqa: TRY400
        with site.sessions.begin() as session:
            _end(session, shadow.stage, now())
        return 0
    for case in cases:
        _record(site, shadow, case, _said(site, model, case))
    return len(cases)


def _load(site: Site, shadow: Shadow) -> StageModel:
    folder = models.folder(site.models, shadow.name, shadow.version)
    model = weights.load_stage(folder, CPU)
    if model.manifest.weights_sha256 != shadow.weights_sha256:
        raise ModelIntegrityError(f"{shadow.reference} is another model now")
    return model


def _said(site: Site, model: StageModel, case: LiveCase) -> tuple[float | None, str]:
    """Return a probability, or None and why there is none."""
    try:
        crop = kept_cases.crop(site.spool, case)
        spec = model.manifest.preprocessing
        x = preprocess.to_input(crop.pixels, crop.box, spec)
        return score(model, x).probability, ""
    except PermanentError as error:
        return None, str(error)


def _record(
    site: Site, shadow: Shadow, case: LiveCase, said: tuple[float | None, str]
) -> None:
    probability, fault = said
    row = ShadowScoreRow(
        result_id=case.result_id,
        stage=shadow.stage,
        weights_sha256=shadow.weights_sha256,
        model=shadow.reference,
        probability=probability,
        fault=fault or None,
        at=now(),
    )
    try:
        with site.sessions.begin() as session:
            session.add(row)
    except IntegrityError:  # another trainer was faster: its score is the same
        log.info("shadow score was there", extra={"result_id": case.result_id})


def prospective(
    session: Session, shadow: Shadow, *, itc_is_positive: bool
) -> Prospective:
    """Compare a shadow with the model in service on cases labelled after its score."""
    stage, weights_sha256 = shadow.stage, shadow.weights_sha256
    known = known_labels.known(session, stage, itc_is_positive=itc_is_positive)
    pairs = []
    scored = session.scalars(
        select(ShadowScoreRow).where(
            ShadowScoreRow.stage == stage,
            ShadowScoreRow.weights_sha256 == weights_sha256,
            ShadowScoreRow.probability.is_not(None),
        )
    )
    at = {row.result_id: row for row in scored}
    for case in kept_cases.newest(session, stage, limit=LOOKBACK if at else 0):
        row, label = at.get(case.result_id), known.get(case.side)
        if row and label and row.probability is not None and label.known_at > row.at:
            pairs.append((label.value, row.probability, case.probability))
    return _compared(np.array(pairs, dtype=np.float64).reshape(-1, 3))


def _compared(pairs: "np.ndarray[Any, np.dtype[np.float64]]") -> Prospective:
    truth, ours, theirs = pairs.T
    n, positives = len(truth), int(truth.sum())
    if min(positives, n - positives) < MIN_OF_EACH:
        return Prospective(n, positives)
    gap = compare(truth, ours, theirs)
    return Prospective(
        n,
        positives,
        auc_interval(truth, ours),
        auc_interval(truth, theirs),
        (gap.value, gap.low, gap.high),
        gap.p,
    )


def status(site: Site) -> list[dict[str, Any]]:
    """Return each running shadow, what it scored, and how it compares."""
    itc = site.settings.itc_is_positive
    with site.sessions() as session:
        return [
            asdict(one)
            | {
                "model": one.reference,
                "scored": _count(session, one, faulty=False),
                "faults": _count(session, one, faulty=True),
                "prospective": asdict(prospective(session, one, itc_is_positive=itc)),
            }
            for one in running(session).values()
        ]


def _count(session: Session, shadow: Shadow, *, faulty: bool) -> int:
    empty = ShadowScoreRow.probability.is_(None)
    query = select(func.count()).where(
        ShadowScoreRow.stage == shadow.stage,
        ShadowScoreRow.weights_sha256 == shadow.weights_sha256,
        empty if faulty else ~empty,
    )
    return session.scalar(query) or 0


def _end(session: Session, stage: Stage, at: datetime) -> None:
    rows = session.scalars(
        select(ShadowRow).where(
            ShadowRow.stage == stage, ShadowRow.stopped_at.is_(None)
        )
    )
    for row in rows:
        row.stopped_at = at


def _value(row: ShadowRow) -> Shadow:
    return Shadow(**{name: getattr(row, name) for name in Shadow.__dataclass_fields__})
