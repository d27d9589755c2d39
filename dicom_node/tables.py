"""Rows of the ledger and the outbox; they never leave the modules of those two.

No column holds a patient's name, ID or birth date: `patient_key` is a keyed hash of
the Patient ID, `issuer_key` one of issuer and Patient ID where an issuer is named.
"""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.db import Base, few
from dicom_node.findings import Laterality
from dicom_node.study import Reason, StudyState

UID = String(64)
KEY = String(64)
AE_TITLE = String(16)
ID = String(36)


class DeliveryState(StrEnum):
    """Where one document stands on its way to one destination."""

    DUE = "due"
    SENT = "sent"
    COMMITTED = "committed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Pausable(StrEnum):
    """A queue that a person can pause."""

    ANALYSIS = "analysis"
    DELIVERY = "delivery"


class CommitmentState(StrEnum):
    """Where a sent document stands on its way to storage commitment (PS3.4 J).

    A request is `due`, then `asked`. `refused`: the peer does not commit at all;
    `unanswered`: it never reported. Neither is asked again.
    """

    DUE = "due"
    ASKED = "asked"
    COMMITTED = "committed"
    FAILED = "failed"
    REFUSED = "refused"
    UNANSWERED = "unanswered"


class StudyRow(Base):
    """One study and its place in the state machine.

    `revision` grows with each instance that may change the outcome; a claim is
    valid while `claim_token` is unchanged. `announced_at` is the time of the last
    queue message, None when there is none. `purge_begun_at` is set while files are
    being removed, so that what a dead process began is finished. `bulk` work is
    announced only while little other work waits.
    """

    __tablename__ = "study"
    __table_args__ = (
        Index(None, "state", "quiet_until"),
        Index(None, "state", "reason"),
        Index(None, "state", "announced_at"),
        Index(None, "state", "bulk", "queued_at"),
        Index(None, "last_received_at"),
        few("purge_begun_at IS NOT NULL", "purge_begun_at"),
    )

    study_uid: Mapped[str] = mapped_column(UID, primary_key=True)
    state: Mapped[StudyState]
    reason: Mapped[Reason | None]
    detail: Mapped[str | None] = mapped_column(Text)
    patient_key: Mapped[str] = mapped_column(KEY, index=True)
    issuer_key: Mapped[str | None] = mapped_column(KEY)
    calling_ae: Mapped[str] = mapped_column(AE_TITLE)
    received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    quiet_until: Mapped[datetime]
    instances: Mapped[int]
    revision: Mapped[int]
    attempts: Mapped[int]
    queued_at: Mapped[datetime | None]
    announced_at: Mapped[datetime | None]
    claim_token: Mapped[str | None] = mapped_column(ID)
    claimed_by: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    purge_begun_at: Mapped[datetime | None]
    bulk: Mapped[bool] = mapped_column(server_default=false())


class PauseRow(Base):
    """One turn of the switch of a queue; the newest row of a queue counts."""

    __tablename__ = "pause"

    pause_id: Mapped[int] = mapped_column(primary_key=True)
    queue: Mapped[Pausable] = mapped_column(index=True)
    paused: Mapped[bool]
    note: Mapped[str] = mapped_column(Text)
    set_by: Mapped[str]
    set_at: Mapped[datetime]


class InstanceRow(Base):
    """One stored instance; `own` marks a report of ours that came back.

    `accepted` says that a person took it although it names another patient. Since
    `purged_at` its file is gone, or about to be; the row stays, and the same object
    is recognised when it comes again.
    """

    __tablename__ = "instance"

    sop_instance_uid: Mapped[str] = mapped_column(UID, primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"), index=True)
    series_uid: Mapped[str] = mapped_column(UID)
    sop_class_uid: Mapped[str] = mapped_column(UID)
    transfer_syntax_uid: Mapped[str] = mapped_column(UID)
    path: Mapped[str]
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(KEY)
    patient_key: Mapped[str] = mapped_column(KEY)
    issuer_key: Mapped[str | None] = mapped_column(KEY)
    calling_ae: Mapped[str] = mapped_column(AE_TITLE)
    received_at: Mapped[datetime]
    own: Mapped[bool]
    accepted: Mapped[bool]
    purged_at: Mapped[datetime | None]


class ConflictRow(Base):
    """A second object under a SOP Instance UID that we hold with other bytes.

    The first is kept, the second lies in the quarantine at `path`, and the study
    stays held until a person has resolved it.
    """

    __tablename__ = "conflict"
    __table_args__ = (UniqueConstraint("sop_instance_uid", "sha256"),)

    conflict_id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(UID)
    path: Mapped[str]
    sha256: Mapped[str] = mapped_column(KEY)
    patient_differs: Mapped[bool]
    received_at: Mapped[datetime]
    resolved_at: Mapped[datetime | None]


class AssociationRow(Base):
    """One association that stored something; open until its rows are committed."""

    __tablename__ = "association"

    association_id: Mapped[str] = mapped_column(ID, primary_key=True)
    listener: Mapped[str]
    calling_ae: Mapped[str] = mapped_column(AE_TITLE)
    peer_address: Mapped[str]
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None] = mapped_column(index=True)


class AssociationStudyRow(Base):
    """A study that an association carried; written before its first Success.

    The study may not be known: a report of ours that comes back opens none.
    `objects` says how many of which SOP class it stored ("UID=n,UID=n"); it is
    written at the association's end, and None where that end was never seen.
    """

    __tablename__ = "association_study"

    association_id: Mapped[str] = mapped_column(
        ForeignKey("association.association_id"), primary_key=True
    )
    study_uid: Mapped[str] = mapped_column(UID, primary_key=True, index=True)
    objects: Mapped[str | None] = mapped_column(Text)


class EventRow(Base):
    """One line of a study's history, for people."""

    __tablename__ = "event"

    event_id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"), index=True)
    at: Mapped[datetime]
    what: Mapped[str]
    detail: Mapped[str] = mapped_column(Text)


class CompletenessRow(Base):
    """What was found out about the completeness of one study, and when to ask again.

    `examined_revision` is the revision that was last looked at for an early end of
    the wait. `counted_instances` is how many instances were here when the archive's
    counts agreed, or were not waited for any more. After `unanswered` tries in vain
    `ask_after` is when to ask next; until `asking_until` somebody is asking.
    """

    __tablename__ = "completeness"
    __table_args__ = (few("asking_until IS NOT NULL", "asking_until"),)

    study_uid: Mapped[str] = mapped_column(
        ForeignKey("study.study_uid"), primary_key=True
    )
    examined_revision: Mapped[int]
    counted_instances: Mapped[int | None]
    unanswered: Mapped[int]
    ask_after: Mapped[datetime | None]
    asking_until: Mapped[datetime | None]


class AnnotationRow(Base):
    """A document that refers to an image which is not in the document's own study.

    `study_uid` is the study that holds the image, None while it is not here;
    `recorded_at` is when the reference was found, or the image came after that.
    `patient_differs` says that the two are of different patients: then the document
    is never read with that study.
    """

    __tablename__ = "annotation"
    __table_args__ = (
        Index(None, "study_uid", "recorded_at"),
        Index(None, "study_uid", "image_uid"),
    )

    document_uid: Mapped[str] = mapped_column(
        ForeignKey("instance.sop_instance_uid"), primary_key=True
    )
    image_uid: Mapped[str] = mapped_column(UID, primary_key=True)
    study_uid: Mapped[str | None] = mapped_column(ForeignKey("study.study_uid"))
    patient_differs: Mapped[bool]
    recorded_at: Mapped[datetime]


class ManualRoiRow(Base):
    """A rectangle that a person set by hand; of each side the newest row counts.

    Append-only. A row without a box takes back what was set before on its side.
    `side_stated` says that the person named the side.
    """

    __tablename__ = "manual_roi"
    __table_args__ = (Index(None, "study_uid", "laterality"),)

    manual_roi_id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"))
    laterality: Mapped[Laterality]
    sop_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("instance.sop_instance_uid")
    )
    frame: Mapped[int]
    x0: Mapped[float | None]
    y0: Mapped[float | None]
    x1: Mapped[float | None]
    y1: Mapped[float | None]
    note: Mapped[str | None] = mapped_column(Text)
    set_by: Mapped[str]
    set_at: Mapped[datetime]
    side_stated: Mapped[bool]


class WaiverRow(Base):
    """What a person accepted of a held study, when it had `instances` objects.

    `detail` is the sentence that was accepted. A row without a reason ends all
    before it.
    """

    __tablename__ = "waiver"

    waiver_id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"), index=True)
    reason: Mapped[Reason | None]
    detail: Mapped[str] = mapped_column(Text)
    instances: Mapped[int]
    accepted_by: Mapped[str]
    accepted_at: Mapped[datetime]


class DocumentRow(Base):
    """One report or capture; its bytes lie frozen in the spool at `path`.

    `variant_of` names the report that this one repeats as another SOP class.
    """

    __tablename__ = "document"

    sop_instance_uid: Mapped[str] = mapped_column(UID, primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"), index=True)
    result_id: Mapped[str] = mapped_column(ID, index=True)
    kind: Mapped[str]
    sop_class_uid: Mapped[str] = mapped_column(UID)
    sha256: Mapped[str] = mapped_column(KEY)
    path: Mapped[str]
    size: Mapped[int]
    created_at: Mapped[datetime]
    variant_of: Mapped[str | None] = mapped_column(UID, index=True)


class DeliveryRow(Base):
    """One document on its way to one destination (AET@HOST:PORT, or a URL).

    `due_since` starts the days after which a delivery counts as failed. `study_uid`
    is the document's: what waits of a study is looked up for every other of it.
    `sent_as` names what went out: the document itself, or a variant of it.
    `commitment` is NULL where nobody asks for it; `commitment_at` is when to ask
    next, `commitment_tries` counts the requests and `resends` the failed reports.
    """

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "destination"),
        Index(None, "state", "next_attempt_at"),
        Index(None, "state", "commitment_at"),
        Index(None, "state", "destination"),
        Index(None, "sent_at"),
        Index(None, "created_at"),
        Index(None, "study_uid", "destination", "state"),
    )

    delivery_id: Mapped[str] = mapped_column(ID, primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("document.sop_instance_uid")
    )
    result_id: Mapped[str] = mapped_column(ID, index=True)
    destination: Mapped[str]
    state: Mapped[DeliveryState]
    attempts: Mapped[int]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    due_since: Mapped[datetime]
    next_attempt_at: Mapped[datetime | None]
    announced_at: Mapped[datetime | None]
    claim_token: Mapped[str | None] = mapped_column(ID)
    lease_until: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    study_uid: Mapped[str | None] = mapped_column(UID)
    sent_as: Mapped[str | None] = mapped_column(UID)
    commitment: Mapped[CommitmentState | None]
    commitment_at: Mapped[datetime | None]
    commitment_tries: Mapped[int] = mapped_column(server_default="0")
    commitment_note: Mapped[str | None] = mapped_column(Text)
    resends: Mapped[int] = mapped_column(server_default="0")


class CommitmentRow(Base):
    """One object in one request for storage commitment.

    The rows of a request share its Transaction UID; a later request for the same
    object has another one, and the report on either counts.
    """

    __tablename__ = "commitment"
    __table_args__ = (UniqueConstraint("transaction_uid", "delivery_id"),)

    commitment_id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(UID)
    delivery_id: Mapped[str] = mapped_column(
        ForeignKey("delivery.delivery_id"), index=True
    )
    sop_class_uid: Mapped[str] = mapped_column(UID)
    sop_instance_uid: Mapped[str] = mapped_column(UID)
    state: Mapped[CommitmentState]
    failure_reason: Mapped[int | None]
    asked_at: Mapped[datetime]
    reported_at: Mapped[datetime | None]


class CounterRow(Base):
    """How often something happened that leaves no row of its own; for monitoring."""

    __tablename__ = "counter"

    name: Mapped[str] = mapped_column(primary_key=True)
    caller: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class AuditRow(Base):
    """One entry of the audit trail; the database refuses to change or remove it.

    It outlives what it speaks of, so nothing here is a foreign key, and the study's
    UID is `study`: an erasure, which goes by the column `study_uid`, leaves it.
    `source` names the row that an entry was made of afterwards, so that none is twice.
    `peer` is the other side of a transfer or query (AET@HOST:PORT, or a URL), `objects`
    how many instances of which SOP class there were ("UID=n,UID=n").
    """

    __tablename__ = "audit"

    sequence: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False
    )
    at: Mapped[datetime] = mapped_column(index=True)
    code: Mapped[str] = mapped_column(String(6))
    kind: Mapped[str | None] = mapped_column(String(6))
    action: Mapped[str] = mapped_column(String(1))
    outcome: Mapped[int]
    what: Mapped[str]
    actor: Mapped[str]
    host: Mapped[str]
    study: Mapped[str | None] = mapped_column(UID, index=True)
    object_id: Mapped[str | None]
    patient: Mapped[str | None] = mapped_column(KEY)
    detail: Mapped[str] = mapped_column(Text)
    source: Mapped[str | None] = mapped_column(unique=True)
    previous_hash: Mapped[str] = mapped_column(KEY)
    hash: Mapped[str] = mapped_column(KEY)
    peer: Mapped[str | None]
    objects: Mapped[str | None] = mapped_column(Text)


class AuditMarkRow(Base):
    """How far the audit trail has followed other rows: before `at` none is new."""

    __tablename__ = "audit_mark"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    at: Mapped[datetime]


class RelayRow(Base):
    """How far the audit trail has been sent to one collector.

    All entries up to `sequence` were taken. A collector confirms nothing, so when it
    goes away it is sent again what is newer than `anchor`: `recent`, taken at
    `recent_at`, is the next anchor. Until `until` the process `holder` sends.
    """

    __tablename__ = "audit_relay"

    collector: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger)
    anchor: Mapped[int] = mapped_column(BigInteger)
    recent: Mapped[int] = mapped_column(BigInteger)
    recent_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)
    holder: Mapped[str | None] = mapped_column(ID)
    until: Mapped[datetime | None]


class TransferRow(Base):
    """Documents of one study on one association to one destination.

    The row is there before the first is sent. At the end it says how many of which
    SOP class were taken ("UID=n,UID=n") and how many were not; a process that was
    killed leaves `ended_at` None.
    """

    __tablename__ = "transfer"

    transfer_id: Mapped[str] = mapped_column(ID, primary_key=True)
    study_uid: Mapped[str] = mapped_column(UID, primary_key=True, index=True)
    destination: Mapped[str]
    began_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]
    objects: Mapped[str | None] = mapped_column(Text)
    failed: Mapped[int]
