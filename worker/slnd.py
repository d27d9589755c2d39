"""What may be recorded as result of a dissection, and to which case it belongs.

The rules of every way in: command line, CSV and HL7. Callers own the transaction.
Results are append-only; a correction is a new row, and re-opens the case.
"""

import hmac
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.errors import StateError
from dicom_node.findings import (
    Deposit,
    Laterality,
    ParkReason,
    Slnd,
    SlndResult,
    deposit_result,
)
from dicom_node.ledger import StudyRecord
from dicom_node.study import StudyUid
from worker import outcomes
from worker.outcomes import CaseRecord

EARLIEST_ZONE: Final = timedelta(hours=14)
"""Where a day begins first (UTC+14). A day comes without a zone, and that of the site
is not known here."""


class SlndRefusedError(StateError):
    """A result cannot be recorded; `reason` is the code under which it would park."""

    def __init__(self, reason: ParkReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def newest_day(at: datetime) -> date:
    """Return the newest day that is no future anywhere at a moment in UTC."""
    return (at + EARLIEST_ZONE).date()


class Change(StrEnum):
    """What recording a result changed."""

    RECORDED = "recorded"
    CORRECTED = "corrected"
    WITHDRAWN = "withdrawn"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The row that counts now, and what the call changed."""

    slnd_id: int
    study_uid: StudyUid
    side: Laterality
    change: Change
    result: Slnd
    before: Slnd | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who records a result, from what message, and whether it corrects another."""

    by: str
    correction: bool
    message_id: int | None = None


@dataclass(frozen=True, slots=True)
class PatientKeys:
    """One identifier of a patient as keyed hashes, as `parked_patient` keeps it."""

    key: str = field(repr=False)
    issuer_keys: tuple[str, ...] = field(repr=False)

    def may_be(self, study: StudyRecord) -> bool:
        """Say whether this is the study's patient, by issuer where both name one."""
        if not hmac.compare_digest(self.key, study.patient_key):
            return False
        if study.issuer_key is None or not self.issuer_keys:
            return True
        return study.issuer_key in self.issuer_keys


def keys_of(secret: bytes, patient_id: str, issuers: Sequence[str]) -> PatientKeys:
    """Return the keyed hashes of a Patient ID under each name of its issuer."""
    hashed = (ledger.issuer_key(secret, issuer, patient_id) for issuer in issuers)
    return PatientKeys(
        ledger.patient_key(secret, patient_id),
        tuple(one for one in hashed if one is not None),
    )


def demand_consistent(
    result: Slnd, deposit: Deposit | None, *, itc_is_positive: bool
) -> None:
    """Refuse a result that its deposit contradicts, by the rule of the site.

    Raises:
        SlndRefusedError: The two exclude each other, or nothing can have a deposit.
    """
    if deposit is None:
        return
    implied = deposit_result(deposit, itc_is_positive=itc_is_positive)
    if result is not implied:
        rule = "" if deposit is not Deposit.ITC else " at this site"
        raise SlndRefusedError(
            ParkReason.RESULT_CONTRADICTS,
            f"a deposit of {deposit} is {implied}{rule}, not {result}: correct one of "
            "them; nothing was recorded",
        )


def case_of(session: Session, study: StudyRecord, side: Laterality) -> CaseRecord:
    """Return the case of one side of a study.

    Raises:
        SlndRefusedError: That side was not analysed.
    """
    for case in outcomes.cases(session, study.study_uid):
        if case.laterality is side:
            return case
    raise SlndRefusedError(
        ParkReason.NO_CASE,
        f"study {study.study_uid} has no analysed case on side {side}; it is "
        f"{study.state}, see `sentinode studies show`",
    )


def assess(
    session: Session, study: StudyRecord, side: Laterality, slnd: SlndResult
) -> Change:
    """Say what recording a result would change.

    Raises:
        SlndRefusedError: There is no case, the dissection was before the MRI, or
            there is nothing to withdraw.
    """
    case = case_of(session, study, side)
    if slnd.performed_on and case.studied_on and slnd.performed_on < case.studied_on:
        raise SlndRefusedError(
            ParkReason.BEFORE_MRI,
            f"the dissection of {slnd.performed_on} was before the MRI of "
            f"{case.studied_on}; nothing was recorded",
        )
    current = outcomes.slnd_results(session, study.study_uid).get(side)
    if slnd.result is Slnd.WITHDRAWN:
        if current is None:
            raise SlndRefusedError(
                ParkReason.NOTHING_TO_WITHDRAW,
                f"side {side} of study {study.study_uid} has no SLND result that could "
                "be withdrawn",
            )
        gone = current.result is Slnd.WITHDRAWN
        return Change.UNCHANGED if gone else Change.WITHDRAWN
    if current is None or current.result is Slnd.WITHDRAWN:
        return Change.RECORDED
    return Change.UNCHANGED if _adds_nothing(slnd, current) else Change.CORRECTED


def _adds_nothing(slnd: SlndResult, current: SlndResult) -> bool:
    """Say whether a result is recorded already; less detail is no correction."""
    return (
        slnd.result is current.result
        and slnd.deposit in {None, current.deposit}
        and slnd.performed_on in {None, current.performed_on}
    )


def contradicts(session: Session, uid: StudyUid, side: Laterality, new: Slnd) -> bool:
    """Say whether a result is the opposite of the one that counts."""
    current = outcomes.slnd_results(session, uid).get(side)
    return current is not None and {current.result, new} == {
        Slnd.POSITIVE,
        Slnd.NEGATIVE,
    }


def record(
    session: Session,
    uid: StudyUid,
    side: Laterality,
    slnd: SlndResult,
    how: Provenance,
) -> Recorded:
    """Record a result, and queue the study for the stage and the report it changes.

    The same result again changes nothing. An analysis under way looks for new results
    when it ends; a study that contradicts itself waits for a person.

    Raises:
        StudyNotFoundError: There is no such study.
        SlndRefusedError: See `assess`; or the result is the opposite of the one that
            counts and does not say that it corrects it.
    """
    study = ledger.lock(session, uid)
    change = assess(session, study, side, slnd)
    current = outcomes.slnd_results(session, uid).get(side)
    before = current.result if current else None
    if change is Change.UNCHANGED and current and current.slnd_id is not None:
        return Recorded(current.slnd_id, uid, side, change, current.result, before)
    if not how.correction and contradicts(session, uid, side, slnd.result):
        raise SlndRefusedError(
            ParkReason.CONTRADICTS_RECORD,
            f"side {side} of study {uid} has the SLND result {before}; to record "
            f"{slnd.result} instead, say that it is a correction",
        )
    slnd_id = outcomes.record_slnd(session, uid, side, slnd, how.by, how.message_id)
    ledger.add_event(session, uid, "slnd", _history(side, slnd, change, how), _at(slnd))
    with suppress(StateError):
        ledger.requeue(session, uid, _at(slnd), f"SLND {side}: {slnd.result}")
    return Recorded(slnd_id, uid, side, change, slnd.result, before)


def _at(slnd: SlndResult) -> datetime:
    return slnd.recorded_at


def _history(
    side: Laterality, slnd: SlndResult, change: Change, how: Provenance
) -> str:
    """Write what changed; the source is free text and stays out of the history."""
    deposit = f" ({slnd.deposit})" if slnd.deposit else ""
    return f"side {side}: {slnd.result}{deposit} {change} by {how.by}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The case that a result without a study looks for."""

    patients: tuple[PatientKeys, ...]
    side: Laterality
    performed_on: date | None


def match(
    session: Session, wanted: Wanted, window: timedelta, at: datetime
) -> StudyUid:
    """Return the newest analysed study of the patient and side inside the window.

    What is said again, or otherwise, of the dissection of one day stays with the case
    that has it; a withdrawal without a date belongs to the one case with a result.

    Raises:
        SlndRefusedError: No case fits, or more than one does.
    """
    if wanted.performed_on is not None and wanted.performed_on > newest_day(at):
        text = "the day of the dissection lies in the future"
        raise SlndRefusedError(ParkReason.DATE_UNKNOWN, text)
    studies = _studies(session, wanted.patients)
    cases = [
        case
        for study in studies
        for case in outcomes.cases(session, study.study_uid)
        if case.laterality is wanted.side
    ]
    if not cases:
        text = f"no study of the patient has an analysed case on side {wanted.side} yet"
        raise SlndRefusedError(ParkReason.NO_CASE, text)
    if len({study.patient_key for study in studies}) > 1:
        raise _ambiguous("the identifiers are those of several patients")
    if wanted.performed_on is None:
        return _only(_with_result(session, cases))
    told = _told(session, cases, wanted.performed_on)
    return _only(told or _inside(cases, wanted.performed_on, window))


def studies_of(session: Session, patients: Sequence[PatientKeys]) -> list[StudyRecord]:
    """Return the studies of a patient who is known by these identifiers."""
    found = ledger.of_patients(session, {one.key for one in patients})
    return [study for study in found if any(one.may_be(study) for one in patients)]


def _studies(session: Session, patients: Sequence[PatientKeys]) -> list[StudyRecord]:
    studies = [
        study
        for study in studies_of(session, patients)
        if study.reason not in ledger.CONTRADICTIONS
    ]
    if not studies:
        text = "no study of a patient with this identifier and issuer is here yet"
        raise SlndRefusedError(ParkReason.UNKNOWN_PATIENT, text)
    return studies


def day_of(case: CaseRecord) -> date:
    """Return the day of the MRI; without one in its header, of its first result."""
    return case.studied_on or case.opened_at.date()


def _inside(
    cases: Sequence[CaseRecord], performed_on: date, window: timedelta
) -> list[CaseRecord]:
    """Return the cases of the newest day that is not after the dissection."""
    before = [case for case in cases if day_of(case) <= performed_on]
    if not before:
        text = "the dissection was before every MRI of the patient"
        raise SlndRefusedError(ParkReason.BEFORE_MRI, text)
    newest = max(map(day_of, before))
    if performed_on - newest > window:
        text = (
            f"the dissection was {(performed_on - newest).days} days after the newest "
            f"MRI; the window is {window.days}"
        )
        raise SlndRefusedError(ParkReason.OUTSIDE_WINDOW, text)
    return [case for case in before if day_of(case) == newest]


def _with_result(session: Session, cases: Sequence[CaseRecord]) -> list[CaseRecord]:
    found = []
    for case in cases:
        current = outcomes.slnd_results(session, case.study_uid).get(case.laterality)
        if current is not None and current.result is not Slnd.WITHDRAWN:
            found.append(case)
    if not found:
        text = "no case of the patient and side has a result that could be withdrawn"
        raise SlndRefusedError(ParkReason.NOTHING_TO_WITHDRAW, text)
    return found


def _told(
    session: Session, cases: Sequence[CaseRecord], performed_on: date
) -> list[CaseRecord]:
    """Return the cases whose recorded dissection was on that day."""
    return [
        case
        for case in cases
        if (current := outcomes.slnd_results(session, case.study_uid)).get(
            case.laterality
        )
        and current[case.laterality].performed_on == performed_on
    ]


def _only(cases: Sequence[CaseRecord]) -> StudyUid:
    if len(cases) > 1:
        raise _ambiguous("several studies of the patient fit")
    return cases[0].study_uid


def _ambiguous(text: str) -> SlndRefusedError:
    return SlndRefusedError(ParkReason.AMBIGUOUS, text)
