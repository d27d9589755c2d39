"""Rows of what the models said, what pathology said, and which model was active.

Results and pathology are append-only: a correction is a new row.
"""

from datetime import date, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.db import Base
from dicom_node.findings import (
    Carrier,
    Deposit,
    Laterality,
    ParkReason,
    Pathway,
    Risk,
    Slnd,
    Stage,
    StageStatus,
)

UID = String(64)
SHA256 = String(64)
ID = String(36)


class CaseRow(Base):
    """One patient, one side, one study; `result_id` names its newest result.

    `stale` asks for a new version although the input is unchanged (reprocessing),
    `rewrite` for one with the numbers as they stand: documents written anew.
    `studied_on` is the day of the MRI as its header has it; pathology comes later.
    """

    __tablename__ = "case"
    __table_args__ = (
        UniqueConstraint("study_uid", "laterality"),
        Index(None, "pathway"),
    )

    case_id: Mapped[str] = mapped_column(ID, primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"))
    laterality: Mapped[Laterality]
    pathway: Mapped[Pathway]
    result_id: Mapped[str] = mapped_column(ID)
    stale: Mapped[bool]
    rewrite: Mapped[bool] = mapped_column(server_default=false())
    studied_on: Mapped[date | None]
    opened_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class MessageRow(Base):
    """One HL7 message that was answered, so that its repetition is answered alike.

    `control_key` is a keyed hash of sender and control ID (MSH-3, -4, -10),
    `content_key` one of the message without its header. `conflicts` counts other
    messages under the same control ID.
    """

    __tablename__ = "hl7_message"

    message_id: Mapped[int] = mapped_column(primary_key=True)
    control_key: Mapped[str] = mapped_column(SHA256, unique=True)
    content_key: Mapped[str] = mapped_column(SHA256)
    received_at: Mapped[datetime] = mapped_column(index=True)
    code: Mapped[str] = mapped_column(String(2))
    condition: Mapped[int | None]
    text: Mapped[str] = mapped_column(Text)
    conflicts: Mapped[int]


HL7: Final = "HL7"
"""Who recorded a result that came by message and fitted a case."""


class SlndRow(Base):
    """One SLND result as recorded; the newest row of a side counts.

    `message_id` is that of the HL7 message that brought it.
    """

    __tablename__ = "slnd"
    __table_args__ = (Index(None, "study_uid", "laterality"),)

    slnd_id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"))
    laterality: Mapped[Laterality]
    result: Mapped[Slnd]
    deposit: Mapped[Deposit | None]
    performed_on: Mapped[date | None]
    source: Mapped[str] = mapped_column(Text)
    recorded_at: Mapped[datetime] = mapped_column(index=True)
    recorded_by: Mapped[str]
    message_id: Mapped[int | None] = mapped_column(index=True)


class ParkedState(StrEnum):
    """Whether a parked SLND result still waits, and how it ended."""

    PARKED = "parked"
    RECORDED = "recorded"
    DISCARDED = "discarded"


class ParkedRow(Base):
    """An SLND result that came and belongs to no case yet.

    It holds what a later attempt needs and nothing that names the patient, nor any
    text of the message: `detail` is a sentence of ours.
    """

    __tablename__ = "parked_slnd"
    __table_args__ = (Index(None, "state", "tried_at"),)

    parked_id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[int | None] = mapped_column(ForeignKey("hl7_message.message_id"))
    laterality: Mapped[Laterality | None]
    result: Mapped[Slnd | None]
    deposit: Mapped[Deposit | None]
    performed_on: Mapped[date | None]
    correction: Mapped[bool]
    source: Mapped[str] = mapped_column(Text)
    state: Mapped[ParkedState]
    reason: Mapped[ParkReason]
    detail: Mapped[str] = mapped_column(Text)
    received_at: Mapped[datetime]
    tried_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    ended_by: Mapped[str | None]
    slnd_id: Mapped[int | None] = mapped_column(ForeignKey("slnd.slnd_id"))


class ParkedPatientRow(Base):
    """One of the patient identifiers that a parked result came with, as keyed hashes.

    `issuer_keys` has one for each name of the authority; empty when none is named.
    """

    __tablename__ = "parked_patient"

    parked_patient_id: Mapped[int] = mapped_column(primary_key=True)
    parked_id: Mapped[int] = mapped_column(
        ForeignKey("parked_slnd.parked_id"), index=True
    )
    patient_key: Mapped[str] = mapped_column(SHA256, index=True)
    issuer_keys: Mapped[list[str]]


class ResultRow(Base):
    """One version of one case's result, with the ROI and the slice it came from.

    `scanner` is a name of `dicom_node.scanner`, null for results from before it.
    """

    __tablename__ = "result"
    __table_args__ = (
        UniqueConstraint("case_id", "version"),
        Index(None, "discordant"),
    )

    result_id: Mapped[str] = mapped_column(ID, primary_key=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("case.case_id"))
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"), index=True)
    laterality: Mapped[Laterality]
    version: Mapped[int]
    pathway: Mapped[Pathway]
    created_at: Mapped[datetime] = mapped_column(index=True)
    supersedes: Mapped[str | None] = mapped_column(ID)
    superseded_by: Mapped[str | None] = mapped_column(ID)
    discordant: Mapped[bool]
    slnd_id: Mapped[int | None] = mapped_column(ForeignKey("slnd.slnd_id"))

    roi_carrier: Mapped[Carrier]
    roi_carrier_sop_instance_uid: Mapped[str | None] = mapped_column(UID)
    roi_sop_instance_uid: Mapped[str] = mapped_column(UID)
    roi_frame: Mapped[int]
    roi_x0: Mapped[float]
    roi_y0: Mapped[float]
    roi_x1: Mapped[float]
    roi_y1: Mapped[float]
    roi_author: Mapped[str | None]
    roi_label: Mapped[str | None]
    roi_tracking_uid: Mapped[str | None] = mapped_column(UID)
    roi_marked_at: Mapped[datetime | None]
    roi_exact: Mapped[bool]

    source_sop_instance_uid: Mapped[str] = mapped_column(UID)
    source_frame: Mapped[int]
    phase: Mapped[str]
    laterality_derived: Mapped[bool]
    area_mm2: Mapped[float]
    candidates: Mapped[int]
    why: Mapped[list[str]]
    input_sop_instance_uids: Mapped[list[str]]
    input_sha256: Mapped[str] = mapped_column(SHA256)
    code_version: Mapped[str | None]
    scanner: Mapped[str | None]

    select_ms: Mapped[float]
    decode_ms: Mapped[float]
    inference_ms: Mapped[float]
    report_ms: Mapped[float]
    total_ms: Mapped[float]


class StageRow(Base):
    """What one stage said in one result; numbers are null when it did not run."""

    __tablename__ = "stage"

    result_id: Mapped[str] = mapped_column(
        ForeignKey("result.result_id"), primary_key=True
    )
    stage: Mapped[Stage] = mapped_column(primary_key=True)
    status: Mapped[StageStatus]
    probability: Mapped[float | None]
    threshold: Mapped[float | None]
    threshold_source: Mapped[str | None] = mapped_column(Text)
    risk: Mapped[Risk | None]
    sensitivity_k: Mapped[int | None]
    sensitivity_n: Mapped[int | None]
    sensitivity_low: Mapped[float | None]
    sensitivity_high: Mapped[float | None]
    specificity_k: Mapped[int | None]
    specificity_n: Mapped[int | None]
    specificity_low: Mapped[float | None]
    specificity_high: Mapped[float | None]
    dataset: Mapped[str | None] = mapped_column(Text)
    model: Mapped[str | None]
    weights_sha256: Mapped[str | None] = mapped_column(SHA256)
    preprocessing_sha256: Mapped[str | None] = mapped_column(SHA256)
    device: Mapped[str | None]
    torch_version: Mapped[str | None]
    cpu: Mapped[str | None]
    threads: Mapped[int | None]
    batch: Mapped[str | None]
    code_version: Mapped[str | None]


class KeptRow(Base):
    """What outlives the images of a result; its files lie in the spool by digest.

    `crop_sha256` is null for results from before crops were kept. After
    `released_at` nothing is kept for this result any more.
    """

    __tablename__ = "kept"

    result_id: Mapped[str] = mapped_column(
        ForeignKey("result.result_id"), primary_key=True
    )
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"), index=True)
    crop_sha256: Mapped[str | None] = mapped_column(SHA256, index=True)
    slice_sha256: Mapped[str] = mapped_column(SHA256, index=True)
    released_at: Mapped[datetime | None]


class ActivationKind(StrEnum):
    """How a model came into service."""

    ACTIVATED = "activated"
    PROMOTED = "promoted"
    AUTOMATIC = "automatic"
    ROLLED_BACK = "rolled_back"


class ActivationRow(Base):
    """A model put into service for a stage; the newest row of a stage counts.

    `kind` is null for rows from before it was written down: they were activated.
    """

    __tablename__ = "activation"

    activation_id: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[Stage] = mapped_column(index=True)
    name: Mapped[str]
    version: Mapped[str]
    weights_sha256: Mapped[str] = mapped_column(SHA256)
    activated_at: Mapped[datetime]
    activated_by: Mapped[str]
    kind: Mapped[ActivationKind | None]
    reason: Mapped[str | None] = mapped_column(Text)


class ThresholdRow(Base):
    """A site's own operating threshold; null returns to the manifest's."""

    __tablename__ = "threshold"

    threshold_id: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[Stage] = mapped_column(index=True)
    threshold: Mapped[float | None]
    reason: Mapped[str] = mapped_column(Text)
    set_at: Mapped[datetime]
    set_by: Mapped[str]


class LabelValue(StrEnum):
    """What pathology says of a target; unknown where nobody looked."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    UNKNOWN = "unknown"


class LabelRow(Base):
    """A label from pathology; the newest of a side and target counts.

    The SLN has its rows in `slnd`; here are results of axillary dissection (NSLN).
    `performed_on` is the day of the dissection.
    """

    __tablename__ = "label_event"
    __table_args__ = (Index(None, "study_uid", "laterality"),)

    label_id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"))
    laterality: Mapped[Laterality]
    target: Mapped[Stage]
    value: Mapped[LabelValue]
    performed_on: Mapped[date | None]
    source: Mapped[str] = mapped_column(Text)
    recorded_at: Mapped[datetime]
    recorded_by: Mapped[str]


class ClinicalRow(Base):
    """One clinical variable of one side, as it was known then; the newest counts.

    `variable` is one of `worker.clinical`; a null `value` takes back what was said.
    """

    __tablename__ = "clinical_event"
    __table_args__ = (Index(None, "study_uid", "laterality"),)

    clinical_id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"))
    laterality: Mapped[Laterality]
    variable: Mapped[str] = mapped_column(String(32))
    value: Mapped[str | None] = mapped_column(String(32))
    source: Mapped[str] = mapped_column(Text)
    recorded_at: Mapped[datetime]
    recorded_by: Mapped[str]


class PatientRoleRow(Base):
    """What a patient's cases may be used for in training; never changed.

    The key of the table is the patient: nobody can have two roles.
    """

    __tablename__ = "patient_role"

    patient_key: Mapped[str] = mapped_column(SHA256, primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    centre: Mapped[str]
    assigned_at: Mapped[datetime]


class SnapshotRow(Base):
    """A frozen data set: from which results, and what was left out, and why.

    With the same `as_of` it can be made again. `exclusions` holds "reason: n".
    """

    __tablename__ = "dataset_snapshot"

    snapshot_id: Mapped[str] = mapped_column(SHA256, primary_key=True)
    as_of: Mapped[datetime]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    cases: Mapped[int]
    sln_positive: Mapped[int]
    sln_known: Mapped[int]
    nsln_positive: Mapped[int]
    nsln_known: Mapped[int]
    results: Mapped[list[str]]
    exclusions: Mapped[list[str]]
