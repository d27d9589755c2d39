"""One HL7 message in, one answer out; what was understood is in SQL before the answer.

    header -> seen before? -> statements -> record, or park, each -> answer

A message is known by its sender and control ID: sent again, it is answered alike and
changes nothing. State and answer commit together, so an answer that got lost is safe.
"""

import hmac
import logging
import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node import envelope, hl7, ledger
from dicom_node.db import Clock, Sessions, insert_missing, now
from dicom_node.envelope import (
    ACCEPTED,
    DATA_TYPE_ERROR,
    DUPLICATE_KEY,
    IN_ERROR,
    INTERNAL_ERROR,
    REJECTED,
    Header,
    NotHl7Error,
    RefusedError,
)
from dicom_node.hl7 import Identifier, PathologyMessage, Statement
from dicom_node.mllp import UnframedError
from dicom_node.study import StudyUid
from dicom_node.vocabulary import Vocabulary
from worker import parking
from worker import slnd as rules
from worker.parking import Arrived
from worker.slnd import PatientKeys, SlndRefusedError
from worker.tables import MessageRow, SlndRow

log = logging.getLogger(__name__)

NAME: Final = re.compile(r"[^A-Za-z0-9 ._\-]")
MAX_NAME: Final = 40


@dataclass(frozen=True, slots=True)
class Answer:
    """What a message is answered: AA, AE or AR, an error condition, a sentence."""

    code: str
    text: str
    condition: int | None = None


@dataclass(frozen=True, slots=True)
class Inbox:
    """Where messages go, and the rules of the site."""

    sessions: Sessions
    secret: bytes = field(repr=False)
    vocabulary: Vocabulary
    window: timedelta
    issuers: Mapping[str, str]
    processing_id: str
    max_bytes: int
    clock: Clock = now


def receive(inbox: Inbox, content: bytes) -> bytes:
    """Take one message and return its answer; the answer is a promise.

    Raises:
        UnframedError: The bytes are no message, so no answer can be addressed.
    """
    header = _header(content)
    try:
        envelope.demand_supported(header, inbox.processing_id)
        answer = _taken(inbox, header, content)
    except RefusedError as refusal:  # says nothing of the message and keeps nothing
        answer = Answer(refusal.code, refusal.text, refusal.condition)
    except SQLAlchemyError as error:
        log.error("HL7 message not kept", extra={"error": type(error).__name__})  # noqa: TRY400 - its text quotes values
        answer = Answer(REJECTED, "not kept now, send it again later", INTERNAL_ERROR)
    return _written(header, answer)


def refuse_too_long(inbox: Inbox, head: bytes) -> bytes:
    """Answer a message that is too long, from its first bytes.

    Raises:
        UnframedError: The bytes are no message, so no answer can be addressed.
    """
    text = f"the message is longer than {inbox.max_bytes} bytes"
    return _written(_header(head), Answer(REJECTED, text, DATA_TYPE_ERROR))


def _header(content: bytes) -> Header:
    try:
        return envelope.read_header(content)
    except NotHl7Error as error:
        raise UnframedError from error


def _written(header: Header, answer: Answer) -> bytes:
    what = {"answer": answer.code, "condition": answer.condition, "said": answer.text}
    log.info("HL7 message answered", extra=what)
    answer_id = uuid.uuid4().hex[:20]
    return envelope.acknowledge(
        header, answer.code, answer.text, answer.condition, answer_id
    )


def _taken(inbox: Inbox, header: Header, content: bytes) -> Answer:
    """Answer a supported message once, and alike each time that it comes."""
    control_key = _digest(
        inbox.secret,
        header.sending_application,
        header.sending_facility,
        header.control_id,
    )
    content_key = hmac.digest(
        inbox.secret, envelope.content_of(content), "sha256"
    ).hex()
    read = _read(inbox, header, content)  # before the transaction: it takes time
    with inbox.sessions.begin() as session:
        values = {
            "control_key": control_key,
            "content_key": content_key,
            "received_at": inbox.clock(),
            "code": "",
            "condition": None,
            "text": "",
            "conflicts": 0,
        }
        if not insert_missing(session, MessageRow, [values], "control_key"):
            return _again(session, inbox, control_key, content_key)
        row = session.scalars(
            select(MessageRow).where(MessageRow.control_key == control_key)
        ).one()
        arrivals = _arrivals(inbox, header, read, row.message_id)
        answer = _handled(session, inbox, read, arrivals)
        row.code, row.text, row.condition = answer.code, answer.text, answer.condition
        return answer


def _digest(secret: bytes, *parts: str) -> str:
    return hmac.digest(secret, "\0".join(parts).encode(), "sha256").hex()


def _again(
    session: Session, inbox: Inbox, control_key: str, content_key: str
) -> Answer:
    """Answer a control ID that is known: as before, unless the message differs."""
    row = session.scalars(
        select(MessageRow).where(MessageRow.control_key == control_key)
    ).one()
    if hmac.compare_digest(row.content_key, content_key):
        return Answer(row.code, row.text, row.condition)
    session.execute(
        update(MessageRow)
        .where(MessageRow.message_id == row.message_id)
        .values(conflicts=MessageRow.conflicts + 1)
    )
    text = (
        "another HL7 message came under the control ID of one that was taken; it "
        "was answered AE, and changed nothing"
    )
    for uid in sorted(_studies_of(session, row.message_id)):
        ledger.add_event(session, uid, "slnd", text, inbox.clock())
    log.warning("HL7 control ID used twice", extra={"message_id": row.message_id})
    return Answer(
        IN_ERROR,
        "another message was taken under this control ID; nothing was changed",
        DUPLICATE_KEY,
    )


def _studies_of(session: Session, message_id: int) -> set[StudyUid]:
    """Return the studies that a message has changed, or may be about."""
    recorded = session.scalars(
        select(SlndRow.study_uid).where(SlndRow.message_id == message_id)
    )
    return {StudyUid(uid) for uid in recorded} | {
        study.study_uid
        for one in parking.of_message(session, message_id)
        for study in rules.studies_of(session, one.arrived.patients)
    }


def _read(
    inbox: Inbox, header: Header, content: bytes
) -> PathologyMessage | RefusedError:
    try:
        return hl7.parse(content, header, inbox.vocabulary)
    except RefusedError as refusal:
        return refusal


def _handled(
    session: Session,
    inbox: Inbox,
    read: PathologyMessage | RefusedError,
    arrivals: Sequence[tuple[Arrived, Statement]],
) -> Answer:
    if isinstance(read, RefusedError):
        return Answer(read.code, read.text, read.condition)
    if not arrivals:
        return Answer(ACCEPTED, "nothing in it is of sentinel nodes; not kept")
    outcomes = Counter(_settled(session, inbox, *one) for one in arrivals)
    said = ", ".join(f"{count} {what}" for what, count in sorted(outcomes.items()))
    return Answer(ACCEPTED, said)


def _arrivals(
    inbox: Inbox,
    header: Header,
    read: PathologyMessage | RefusedError,
    message_id: int,
) -> list[tuple[Arrived, Statement]]:
    """Return each statement as it arrived: with its patient, sender and message."""
    if isinstance(read, RefusedError):
        return []
    patients = tuple(_keys(inbox, one) for one in read.identifiers)
    sender = [_name(header.sending_application), _name(header.sending_facility)]
    return [
        (
            Arrived(
                patients=patients,
                side=one.side,
                result=one.result,
                deposit=one.deposit,
                performed_on=one.performed_on,
                correction=one.correction,
                source=" ".join(["HL7 ORU", *filter(None, sender)]),
                message_id=message_id,
            ),
            one,
        )
        for one in read.statements
    ]


def _settled(
    session: Session, inbox: Inbox, arrived: Arrived, statement: Statement
) -> str:
    """Record a statement or park it; return one word of what became of it."""
    at = inbox.clock()
    try:
        _demand_clear(statement)
        return parking.take(session, arrived, inbox.window, at).change
    except SlndRefusedError as refusal:
        parked_id = parking.park(session, arrived, refusal, at)
        text = f"result {parked_id} parked: {refusal.reason}"
        for study in rules.studies_of(session, arrived.patients):
            ledger.add_event(session, study.study_uid, "slnd", text, at)
        return f"parked ({refusal.reason})"


def _demand_clear(statement: Statement) -> None:
    if statement.problem is not None:
        raise SlndRefusedError(statement.problem, statement.detail)


def _keys(inbox: Inbox, identifier: Identifier) -> PatientKeys:
    issuers = [
        name
        for authority in identifier.authorities
        for name in (authority, inbox.issuers.get(authority, ""))
        if name
    ]
    return rules.keys_of(inbox.secret, identifier.patient_id, issuers)


def _name(text: str) -> str:
    """Return an application's name without anything that is no name."""
    return NAME.sub("", text)[:MAX_NAME].strip()
