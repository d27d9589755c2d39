"""Which part a patient plays in training: learnt from, held out, or external.

A role is given once and never changes: a patient who was learnt from would make any
later test worthless. Both breasts and repeat studies share it.
"""

import hmac
from collections.abc import Collection, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.db import insert_missing
from worker.tables import PatientRoleRow

HOLDOUT_PERCENT: Final = 20


class Role(StrEnum):
    """What a patient's cases may be used for."""

    DEVELOPMENT = "development"
    HOLDOUT = "holdout"
    EXTERNAL = "external"


def draw(secret: bytes, patient_key: str) -> Role:
    """Return the role that the keyed hash of a patient gives: 80 to 20."""
    digest = hmac.digest(secret, b"role " + patient_key.encode(), "sha256")
    held_out = int.from_bytes(digest[:8]) % 100 < HOLDOUT_PERCENT
    return Role.HOLDOUT if held_out else Role.DEVELOPMENT


def assign(
    session: Session,
    secret: bytes,
    centres: Mapping[str, str],
    external: Collection[str],
    at: datetime,
) -> None:
    """Give a role to each patient without one.

    Args:
        session: The caller's transaction.
        secret: The installation's key; with another, other patients are held out.
        centres: The centre of each patient, by patient key.
        external: Centres whose patients are never learnt from.
        at: Now.
    """
    rows = [
        {
            "patient_key": key,
            "role": Role.EXTERNAL if centre in external else draw(secret, key),
            "centre": centre,
            "assigned_at": at,
        }
        for key, centre in sorted(centres.items())
    ]
    insert_missing(session, PatientRoleRow, rows, "patient_key")


def all_roles(session: Session) -> dict[str, tuple[Role, str]]:
    """Return role and centre of every patient, by patient key."""
    rows = session.scalars(select(PatientRoleRow))
    return {row.patient_key: (Role(row.role), row.centre) for row in rows}
