"""Watching the cases of today: the windows of `training.drift`, written down.

Two windows that share no case are looked at. A statistic that alarms in both is a
confirmed alarm: one bad week is not enough to train again.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node import kept
from dicom_node.errors import NodeError
from dicom_node.findings import Stage
from training import drift, features, kept_cases, known_labels, lineage
from training.drift import Finding
from training.kept_cases import LiveCase
from training.lineage import Lineage, Reference
from training.site import Site
from worker import models, outcomes
from worker.manifest import Manifest
from worker.model_tables import DriftReportRow
from worker.outcomes import Activation

Floats = NDArray[np.float64]

CONFIRMED: Final = "confirmed_alarms"
NEW_SCANNER: Final = "scanner_new"
LOOKBACK: Final = 5000


def observe(site: Site, stage: Stage, at: datetime) -> list[Finding]:
    """Compare the newest cases of a stage with what its champion learned from.

    The findings are stored as one report.

    Returns:
        The findings; none when no model serves, or there are too few cases.

    Raises:
        SettingsError: The champion's files cannot be read.
    """
    with site.sessions() as session:
        champion = outcomes.activations(session).get(stage)
        cases = kept_cases.newest(session, stage, LOOKBACK)
        known = known_labels.known(
            session, stage, itc_is_positive=site.settings.itc_is_positive
        )
    if champion is None:
        return []
    folder = models.folder(site.models, champion.name, champion.version)
    manifest, origin = models.verify(folder), lineage.read(folder)
    windows = cases[: drift.WINDOW], cases[drift.WINDOW : 2 * drift.WINDOW]
    newest, before = (
        _window(site, part, manifest, origin) if len(part) >= drift.WINDOW else []
        for part in windows
    )
    labelled = [
        (known[one.side].value, one.probability)
        for one in reversed(cases)
        if one.side in known and one.model == champion.reference
    ]
    newest += drift.labelled(
        [value for value, _ in labelled], [p for _, p in labelled], manifest.performance
    )
    if newest:
        newest.append(_confirmed(newest, before))
        with site.sessions.begin() as session:
            session.add_all(_row(one, champion, at) for one in newest)
    return newest


def _window(
    site: Site, cases: Sequence[LiveCase], manifest: Manifest, origin: Lineage | None
) -> list[Finding]:
    performance = manifest.performance
    scores = np.array((*performance.positives, *performance.negatives))
    reference: dict[str, Reference] = dict(origin.features) if origin else {}
    reference["score"] = lineage.reference(scores)
    measured = [_measure(site, one) for one in cases]
    findings = drift.inputs(reference, _table(cases, measured))
    findings += _rates(cases, manifest)
    groups: dict[str, list[int]] = defaultdict(list)
    for i, (name, _) in enumerate(measured):
        groups[name].append(i)
    if len(groups) > 1:
        for name, rows in groups.items():
            part = [cases[i] for i in rows]
            table = _table(part, [measured[i] for i in rows])
            findings += [
                replace(one, scanner=name) for one in drift.inputs(reference, table)
            ]
    return [*drift.jointly(findings), *_new_scanners(groups, origin)]


def _measure(site: Site, case: LiveCase) -> tuple[str, tuple[float, ...]]:
    """Return scanner and features; what cannot be read is not a number."""
    path = site.spool.fetch(kept.slice_path(case.slice_sha256))
    try:
        crop = kept_cases.crop(site.spool, case)
        found = features.of_crop(crop, float(np.sqrt(case.area_mm2)))
    except NodeError:
        found = (float("nan"),) * len(features.NAMES)
    return features.scanner(path), found


def _table(
    cases: Sequence[LiveCase], measured: Sequence[tuple[str, tuple[float, ...]]]
) -> dict[str, Floats]:
    values = np.array([found for _, found in measured], dtype=np.float64)
    table = {name: values[:, i] for i, name in enumerate(features.NAMES)}
    return table | {"score": np.array([one.probability for one in cases])}


def _rates(cases: Sequence[LiveCase], manifest: Manifest) -> Iterator[Finding]:
    """Compare how many are called high risk with the share among the held-out cases."""
    performance, cut = manifest.performance, manifest.operating_threshold.value
    before = performance.sensitivity.k
    before += performance.specificity.n - performance.specificity.k
    high = sum(one.probability >= cut for one in cases)
    yield drift.rate_change(
        "high_risk_rate", (high, len(cases)), (before, performance.n)
    )


def _new_scanners(
    groups: Mapping[str, Sequence[int]], origin: Lineage | None
) -> Iterator[Finding]:
    """A scanner that the model never saw is an alarm, however its images look."""
    if origin is None or not origin.scanners:
        return
    for name, rows in groups.items():
        if name not in origin.scanners and name != features.UNKNOWN_SCANNER:
            yield Finding(
                NEW_SCANNER,
                float(len(rows)),
                None,
                len(rows),
                alarm=True,
                scanner=name,
                detail="no training case was made by it",
            )


def _confirmed(newest: Sequence[Finding], before: Sequence[Finding]) -> Finding:
    then = {(one.statistic, one.scanner) for one in before if one.alarm}
    both = [one for one in newest if one.alarm and (one.statistic, one.scanner) in then]
    names = ", ".join(sorted({one.statistic for one in both}))
    return Finding(
        CONFIRMED,
        float(len(both)),
        None,
        sum(one.n for one in both[:1]),
        alarm=bool(both),
        detail=f"in this window and the one before: {names or 'none'}",
    )


def confirmed(session: Session, stage: Stage, model: str) -> DriftReportRow | None:
    """Return the confirmed alarm of the newest report on a model, if it raised one."""
    newest = select(func.max(DriftReportRow.at)).where(
        DriftReportRow.stage == stage, DriftReportRow.model == model
    )
    return session.scalar(
        select(DriftReportRow).where(
            DriftReportRow.stage == stage,
            DriftReportRow.model == model,
            DriftReportRow.at == newest.scalar_subquery(),
            DriftReportRow.statistic == CONFIRMED,
            DriftReportRow.alarm,
        )
    )


def _row(finding: Finding, champion: Activation, at: datetime) -> DriftReportRow:
    return DriftReportRow(
        at=at,
        stage=champion.stage,
        model=champion.reference,
        scanner=finding.scanner,
        statistic=finding.statistic,
        value=finding.value,
        p=finding.p,
        n=finding.n,
        alarm=finding.alarm,
        detail=finding.detail,
    )
