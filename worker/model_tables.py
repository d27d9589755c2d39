"""Rows of where models come from, how they were judged, and how they do in service.

Which model serves a stage is said by the newest `activation` row alone; the status of
a model version is written with it, in the same transaction.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.db import Base
from dicom_node.findings import Stage
from worker.tables import ID, SHA256


class VersionStatus(StrEnum):
    """Where a model version stands in its life."""

    CANDIDATE = "candidate"
    CHAMPION = "champion"
    RETIRED = "retired"
    REJECTED = "rejected"


class ModelVersionRow(Base):
    """One published model; `gate` is the report of its newest comparison.

    `snapshot_id` is what it learned from, `parent` the model (NAME@VERSION) that
    served when it was published, `holdout_id` the held-out cases that it was judged
    on; `reason` and `decided_by` are of the newest change of its status.
    """

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("name", "version"),)

    model_version_id: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[Stage] = mapped_column(index=True)
    name: Mapped[str]
    version: Mapped[str]
    weights_sha256: Mapped[str] = mapped_column(SHA256)
    snapshot_id: Mapped[str | None] = mapped_column(SHA256)
    parent: Mapped[str | None]
    status: Mapped[VersionStatus]
    holdout_id: Mapped[str | None] = mapped_column(SHA256)
    gate: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None]


class HoldoutLookRow(Base):
    """One look at held-out cases: each spends a little of what they can tell."""

    __tablename__ = "holdout_look"

    look_id: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[Stage]
    holdout_id: Mapped[str] = mapped_column(SHA256, index=True)
    model: Mapped[str]
    looked_at: Mapped[datetime]
    looked_by: Mapped[str]


class ShadowRow(Base):
    """A candidate that scores live cases beside the champion until `stopped_at`."""

    __tablename__ = "shadow"

    shadow_id: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[Stage] = mapped_column(index=True)
    name: Mapped[str]
    version: Mapped[str]
    weights_sha256: Mapped[str] = mapped_column(SHA256)
    started_at: Mapped[datetime]
    started_by: Mapped[str]
    stopped_at: Mapped[datetime | None]


class ShadowScoreRow(Base):
    """What a shadow says of the crop of a result; never sent, in no document.

    `probability` is null when the crop could not be scored; `fault` says why, in a
    sentence of ours.
    """

    __tablename__ = "shadow_score"

    result_id: Mapped[str] = mapped_column(
        ForeignKey("result.result_id"), primary_key=True
    )
    stage: Mapped[Stage] = mapped_column(primary_key=True)
    weights_sha256: Mapped[str] = mapped_column(SHA256, primary_key=True)
    model: Mapped[str]
    probability: Mapped[float | None]
    fault: Mapped[str | None] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(index=True)


class DriftReportRow(Base):
    """One statistic of one window of live cases against what the champion learned from.

    `scanner` is "all", or the keyed name of one scanner. `p` is null where the
    statistic is no test. All rows of one report have the same `at`.
    """

    __tablename__ = "drift_report"
    __table_args__ = (Index(None, "stage", "at"),)

    drift_report_id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    stage: Mapped[Stage]
    model: Mapped[str]
    scanner: Mapped[str]
    statistic: Mapped[str]
    value: Mapped[float]
    p: Mapped[float | None]
    n: Mapped[int]
    alarm: Mapped[bool]
    detail: Mapped[str | None] = mapped_column(Text)


class RetrainingState(StrEnum):
    """How far a retraining is, and how it ended."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABANDONED = "abandoned"


class RetrainingRow(Base):
    """One run of the retraining loop; its files lie in a folder of its identifier.

    `step` is the last one that is complete; a run that was killed goes on behind it.
    """

    __tablename__ = "retraining"

    retraining_id: Mapped[str] = mapped_column(ID, primary_key=True)
    stage: Mapped[Stage] = mapped_column(index=True)
    state: Mapped[RetrainingState]
    trigger: Mapped[str] = mapped_column(Text)
    step: Mapped[str]
    attempts: Mapped[int]
    snapshot_id: Mapped[str | None] = mapped_column(SHA256)
    model: Mapped[str | None]
    detail: Mapped[str | None] = mapped_column(Text)
    reported_at: Mapped[datetime | None]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class LeaseRow(Base):
    """A right to work alone that ends by itself: whoever is killed lets go in time."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str | None]
    until: Mapped[datetime | None]
