"""One trainer at a time: a row in the database that whoever is killed lets go of."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, or_, update
from sqlalchemy.orm import Session

from dicom_node.db import insert_missing
from worker.model_tables import LeaseRow


def take(
    session: Session, name: str, holder: str, term: tuple[datetime, timedelta]
) -> bool:
    """Take or renew a lease from `at` for so long; say whether it is ours now."""
    at, length = term
    insert_missing(
        session, LeaseRow, [{"name": name, "holder": None, "until": None}], "name"
    )
    taken: CursorResult[Any] = session.execute(  # type: ignore[assignment]  # an UPDATE
        update(LeaseRow)
        .where(
            LeaseRow.name == name,
            or_(
                LeaseRow.holder.is_(None),
                LeaseRow.holder == holder,
                LeaseRow.until < at,
            ),
        )
        .values(holder=holder, until=at + length)
    )
    return taken.rowcount == 1


def release(session: Session, name: str, holder: str) -> None:
    """Let a lease go, if it is still ours."""
    session.execute(
        update(LeaseRow)
        .where(LeaseRow.name == name, LeaseRow.holder == holder)
        .values(holder=None, until=None)
    )
