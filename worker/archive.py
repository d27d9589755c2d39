"""The look at the archives: do they still list what they took from us?"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import retrieve
from dicom_node.study import Peer, StudyUid
from dicom_node.tables import DeliveryRow, DeliveryState, DocumentRow
from worker.reconciliation import Finding, Sent, unlisted
from worker.settings import WorkerSettings

SETTLES: Final = timedelta(minutes=1)
"""How long an archive may take to list what it has just taken."""

TAKEN: Final = (DeliveryState.SENT, DeliveryState.COMMITTED)


def to_ask(settings: WorkerSettings) -> list[tuple[Peer, Peer]]:
    """Return each destination with the peer that answers queries about it.

    That is SENTINODE_QUERY where it is on the destination's host, or where there is
    one destination alone; else the destination is asked itself.
    """
    query = settings.query
    only = len(settings.pacs) == 1
    return [
        (one, query if query is not None and (only or query.host == one.host) else one)
        for one in settings.pacs
    ]


def taken(
    session: Session, destination: Peer, at: datetime
) -> dict[StudyUid, list[Sent]]:
    """Return what a destination took, by study."""
    rows = session.execute(
        select(DeliveryRow, DocumentRow.study_uid)
        .join(DocumentRow, DocumentRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
        .where(
            DeliveryRow.destination == str(destination),
            DeliveryRow.state.in_(TAKEN),
            DeliveryRow.sent_at <= at - SETTLES,
        )
        .order_by(DocumentRow.study_uid)
    )
    found: dict[StudyUid, list[Sent]] = defaultdict(list)
    for row, uid in rows:
        went_out = row.sent_as or row.sop_instance_uid
        one = Sent(row.delivery_id, uid, went_out, row.destination)
        found[StudyUid(uid)].append(one)
    return found


def lost(
    settings: WorkerSettings, peer: Peer, sent: dict[StudyUid, list[Sent]]
) -> Iterator[Sequence[Finding]]:
    """Yield for each study what the archive does not list, over one association.

    Raises:
        PeerUnavailableError: No association, or no answer in time.
        PeerRejectedError: The peer answers no queries.
    """
    timeout = settings.query_timeout.total_seconds()
    with retrieve.querying(peer, settings.caller, timeout) as opened:
        for uid, ours in sent.items():
            yield unlisted(ours, retrieve.listed(opened, uid))
