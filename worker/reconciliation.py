"""What is said when files, database and archives disagree: codes, findings, counts.

Values only. A finding names UIDs, paths and identifiers, never a patient.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """What is wrong; stable codes for scripts."""

    FILE_MISSING = "file_missing"
    FILE_DIFFERS = "file_differs"
    ROW_MISSING = "row_missing"
    DOCUMENT_MISSING = "document_missing"
    DOCUMENT_DIFFERS = "document_differs"
    DOCUMENT_ORPHAN = "document_orphan"
    KEPT_MISSING = "kept_missing"
    KEPT_ORPHAN = "kept_orphan"
    REPORT_MISSING = "report_missing"
    DELIVERY_MISSING = "delivery_missing"
    ASSOCIATION_STALE = "association_stale"
    LEASE_EXPIRED = "lease_expired"
    QUEUED_LONG = "queued_long"
    RECEIVING_LONG = "receiving_long"
    LOST_AT_ARCHIVE = "lost_at_archive"


@dataclass(frozen=True, slots=True)
class Finding:
    """One disagreement; `subject` is what it is about.

    A SOP Instance UID for instances and documents, a path for what no row names, the
    identifier of a result, a delivery or an association. `destination` is set where
    something should have gone.
    """

    code: Code
    subject: str
    detail: str
    study_uid: str | None = None
    path: str | None = None
    destination: str | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """A document that was sent: the delivery, its study, and the UID that went out."""

    delivery_id: str
    study_uid: str
    sop_instance_uid: str
    destination: str


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """Return how many findings there are of each code, in the order of the codes."""
    found = Counter(one.code for one in findings)
    return {code.value: found[code] for code in Code if found[code]}


def undelivered(
    documents: Mapping[str, Sequence[str]],
    sent: Mapping[str, Collection[tuple[str, str]]],
    expected: Mapping[str, Collection[str]],
) -> Iterator[tuple[str, str, str]]:
    """Yield (result, document, destination) of what was never put on its way.

    Args:
        documents: The documents of each result.
        sent: Which (document, destination) pairs each result has.
        expected: Destinations that the documents of a result must go to, beside
            those that any document of it goes to.
    """
    for result_id, uids in documents.items():
        pairs = set(sent.get(result_id, ()))
        where = {destination for _, destination in pairs}
        where |= set(expected.get(result_id, ()))
        for uid in uids:
            for destination in sorted(where):
                if (uid, destination) not in pairs:
                    yield result_id, uid, destination


def unlisted(sent: Iterable[Sent], listed: Collection[str]) -> list[Finding]:
    """Return what an archive took and does not list any more."""
    return [
        Finding(
            Code.LOST_AT_ARCHIVE,
            one.delivery_id,
            f"{one.destination} took {one.sop_instance_uid} and does not list it",
            study_uid=one.study_uid,
            destination=one.destination,
        )
        for one in sent
        if one.sop_instance_uid not in listed
    ]
