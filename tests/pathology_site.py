"""A site that pathology writes to: its inbox, and what of it is kept."""

from datetime import timedelta

from dicom_node import ledger, vocabulary
from dicom_node.settings import patient_secret
from tests.pathology_messages import message
from worker import inbox as inboxes
from worker import outcomes, parking
from worker.inbox import Inbox

WINDOW = timedelta(days=180)


def inbox_of(bench) -> Inbox:
    """Where the messages of one site go, without a word or rule of its own."""
    return Inbox(
        sessions=bench.sessions,
        secret=patient_secret(bench.site.settings),
        vocabulary=vocabulary.default(),
        window=WINDOW,
        issuers={},
        processing_id="P",
        max_bytes=65536,
    )


def history(bench, uid):
    with bench.sessions() as session:
        return [one.slnd.result for one in outcomes.slnd_history(session, uid)]


def said(bench, uid):
    with bench.sessions() as session:
        return [one.detail for one in ledger.events(session, uid) if one.what == "slnd"]


def parked(bench):
    with bench.sessions() as session:
        return parking.parked(session, waiting_only=True)


def patient_of(slices) -> str:
    return str(slices[0].PatientID)


def send(box, *orders, **changes) -> bytes:
    return inboxes.receive(box, message(*orders, **changes))
