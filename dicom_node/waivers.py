"""What a person accepted of a held study: append-only, and void after a while.

A waiver was given to a study as it stood. It ends when another object of the study
arrives, or when something else that was not there is entered (`end`): whoever accepted
did not see that.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.arrivals import add_event
from dicom_node.errors import StudyStateError
from dicom_node.study import Reason, StudyState, StudyUid
from dicom_node.tables import StudyRow, WaiverRow

ACCEPTABLE: Final = frozenset({Reason.QUALITY, Reason.INCOMPLETE})
"""Holds that a person may overrule; the others leave nothing to analyse."""


def accept(
    session: Session,
    study: StudyRow,
    reasons: Collection[Reason],
    by: str,
    at: datetime,
) -> None:
    """Enter that a person accepts what a study is held for.

    Args:
        session: A writing session.
        study: The study, locked.
        reasons: What the person is ready to accept; only what the study is held for
            is entered, since nobody has seen the rest.
        by: Who.
        at: When.

    Raises:
        StudyStateError: The study is not held for one of the reasons.
    """
    held = study.reason if study.state is StudyState.HELD else None
    if held is None or held not in reasons or held not in ACCEPTABLE:
        stands = f"{study.state}: {study.reason}" if study.reason else study.state
        wanted = " or ".join(sorted(reasons))
        raise StudyStateError(
            f"study {study.study_uid} is {stands}; only one that is held as {wanted} "
            "can be accepted so"
        )
    detail = study.detail or ""
    _enter(session, study, held, detail, (by, at))
    add_event(
        session, StudyUid(study.study_uid), "accepted", f"{held} by {by}: {detail}", at
    )


def end(session: Session, study: StudyRow, by: str, at: datetime) -> None:
    """Enter that earlier waivers of a study do not hold any more."""
    if waived(session, study):
        _enter(session, study, None, "", (by, at))


def waived(session: Session, study: StudyRow) -> frozenset[Reason]:
    """Return what is accepted of a study as it stands now."""
    rows = session.execute(
        select(WaiverRow.reason, WaiverRow.instances)
        .where(WaiverRow.study_uid == study.study_uid)
        .order_by(WaiverRow.waiver_id)
    ).all()
    valid: set[Reason] = set()
    for reason, instances in rows:
        if reason is None:
            valid.clear()
        elif instances == study.instances:
            valid.add(reason)
    return frozenset(valid)


def _enter(
    session: Session,
    study: StudyRow,
    reason: Reason | None,
    detail: str,
    signed: tuple[str, datetime],
) -> None:
    session.add(
        WaiverRow(
            study_uid=study.study_uid,
            reason=reason,
            detail=detail,
            instances=study.instances,
            accepted_by=signed[0],
            accepted_at=signed[1],
        )
    )
    session.flush()
