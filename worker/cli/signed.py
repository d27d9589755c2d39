"""Entries of the audit trail for what a person does at the command line.

Each is written in the transaction of the action, as the last thing in it: both are
there, or neither is.
"""

from collections.abc import Iterable
from typing import Final

from sqlalchemy.orm import Session

from dicom_node import audit
from dicom_node.audit import Action, Code, Event, Kind
from dicom_node.study import Peer
from worker.cli.context import Site, operator

CONFIGURATION: Final = (Code.SECURITY_ALERT, Kind.SOFTWARE_CONFIGURATION)


def studies(  # noqa: PLR0913 - what is said of one action
    session: Session,
    site: Site,
    what: str,
    uids: Iterable[str],
    detail: str = "",
    *,
    action: Action = Action.UPDATE,
    code: Code = Code.ACCESSED,
    peer: Peer | None = None,
) -> None:
    """Enter what was done to studies, one entry for each."""
    by, other = operator(), None if peer is None else str(peer)
    audit.record(
        session,
        site.trail,
        *(
            Event(code, action, what, by, study=uid, detail=detail, peer=other)
            for uid in uids
        ),
    )


def thing(  # noqa: PLR0913 - what is said of one action
    session: Session,
    site: Site,
    what: str,
    object_id: str,
    detail: str = "",
    *,
    study: str | None = None,
) -> None:
    """Enter what was done to a delivery, a mark or a parked result."""
    event = Event(
        Code.ACCESSED,
        Action.UPDATE,
        what,
        operator(),
        study=study,
        object_id=object_id,
        detail=detail,
    )
    audit.record(session, site.trail, event)


def configuration(
    session: Session, site: Site, what: str, object_id: str, detail: str = ""
) -> None:
    """Enter a change to how the installation works: a model, a threshold, a switch."""
    code, kind = CONFIGURATION
    event = Event(
        code,
        Action.EXECUTE,
        what,
        operator(),
        object_id=object_id,
        detail=detail,
        kind=kind,
    )
    audit.record(session, site.trail, event)


def audit_log(session: Session, site: Site, what: str, detail: str = "") -> None:
    """Enter that the audit trail itself was used."""
    event = Event(Code.AUDIT_LOG_USED, Action.READ, what, operator(), detail=detail)
    audit.record(session, site.trail, event)


def exported(session: Session, site: Site, what: str, detail: str = "") -> None:
    """Enter that data of the installation left it, into a file."""
    event = Event(Code.EXPORT, Action.READ, what, operator(), detail=detail)
    audit.record(session, site.trail, event)


def queried(
    session: Session, site: Site, what: str, archive: Peer, detail: str = ""
) -> None:
    """Enter that an archive was asked what it holds."""
    event = Event(
        Code.QUERY, Action.EXECUTE, what, operator(), detail=detail, peer=str(archive)
    )
    audit.record(session, site.trail, event)
