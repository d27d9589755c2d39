"""The query SCU: does the archive hold images of a study that did not come to us?

Asked from the top down, over one association, and no further than needed:

    STUDY   Number of Study Related Instances (0020,1208): no more than our images?
    SERIES  Number of Series Related Instances (0020,1209) of each MR series
    IMAGE   the instances of a series that has more there than here, or no number

What is compared are MR images of the SOP classes that we accept. Reports, captures and
raw data there, and objects that only we have, never make the two disagree.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from pydicom import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.association import associate, end, status_of
from dicom_node.attributes import number, text
from dicom_node.codestream import UNCOMPRESSED
from dicom_node.completion import IMAGES
from dicom_node.errors import PeerRejectedError, PeerUnavailableError
from dicom_node.silence import silence
from dicom_node.study import Peer, SopInstanceUid, StoredInstance, StudyUid
from dicom_node.tls import Calling

FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
"""Study Root Query/Retrieve Information Model - FIND."""

PENDING: Final = frozenset({0xFF00, 0xFF01})
OUT_OF_RESOURCES: Final = 0xA700
MAX_MATCHES: Final = 50_000
"""Answers to one query; an archive that sends more does not match what was asked."""

MR: Final = "MR"
NAMED_SERIES: Final = 3


@dataclass(frozen=True, slots=True)
class Holding:
    """What is here of a study: MR images by Series Instance UID, and all objects."""

    images: Mapping[str, int]
    objects: frozenset[SopInstanceUid]

    @classmethod
    def of(cls, stored: Iterable[StoredInstance]) -> Self:
        """Return what the instances of a study amount to."""
        instances = tuple(stored)
        images = [one.series_uid for one in instances if one.sop_class_uid in IMAGES]
        objects = frozenset(one.sop_instance_uid for one in instances)
        return cls(Counter(images), objects)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many MR images of a study are here, and what is only there.

    `missing` are images that are there and not here, by series.
    """

    here: int
    missing: Mapping[str, int]

    @property
    def agree(self) -> bool:
        """Say whether nothing is missing here."""
        return not self.missing

    def __str__(self) -> str:
        count = sum(self.missing.values())
        series = ", ".join(sorted(self.missing)[:NAMED_SERIES])
        more = " and more" if len(self.missing) > NAMED_SERIES else ""
        return (
            f"{self.here} MR image(s) are here, {self.here + count} at the archive; "
            f"{count} did not come, of series {series}{more}."
        )


@dataclass(frozen=True, slots=True)
class Archive:
    """An association to query over; one query takes at most `timeout` seconds."""

    peer: Peer
    association: Association
    timeout: float


@contextmanager
def querying(
    peer: Peer,
    calling: Calling,
    timeout: float,
    more: Sequence[PresentationContext] = (),
) -> Iterator[Archive]:
    """Open an association for queries and end it afterwards.

    Args:
        peer: The archive's query application entity.
        calling: Our AE title, or who we are by TLS.
        timeout: Seconds to wait for the association, and for each query to end.
        more: What else the association is for.

    Raises:
        PeerUnavailableError: No association.
        PeerRejectedError: The peer answers no queries.
    """
    context = build_context(FIND, list(UNCOMPRESSED))
    association = associate(peer, calling, [context, *more], timeout)
    try:
        yield Archive(peer, association, timeout)
    finally:
        end(association)


def count(archive: Archive, uid: StudyUid, ours: Holding) -> Counts:
    """Compare the MR images of a study at the archive with ours.

    Raises:
        PeerUnavailableError: No answer in time, or the archive is out of resources.
        PeerRejectedError: The archive cannot process the query.
    """
    here = sum(ours.images.values())
    with silence():
        if _holds_no_more(archive, uid, here):
            return Counts(here, {})
        missing = {
            series: lacking
            for series in _mr_series(archive, uid, ours)
            if (lacking := _lacking(archive, uid, series, ours))
        }
    return Counts(here, missing)


def _holds_no_more(archive: Archive, uid: StudyUid, here: int) -> bool:
    """Say whether all that the archive has of a study is no more than our images."""
    studies = list(_find(archive, uid, "STUDY", NumberOfStudyRelatedInstances=""))
    totals = [number(one, "NumberOfStudyRelatedInstances") for one in studies]
    return all(total is not None and total <= here for total in totals)


def _mr_series(archive: Archive, uid: StudyUid, ours: Holding) -> list[str]:
    """Return the series that may hold more MR images there than here.

    One of no stated modality may; one without a number does until it is listed.
    """
    found = []
    wanted = {"Modality": "", "NumberOfSeriesRelatedInstances": ""}
    for one in _find(archive, uid, "SERIES", **wanted):
        series = text(one, "SeriesInstanceUID")
        there = number(one, "NumberOfSeriesRelatedInstances")
        if not series or text(one, "Modality") not in {MR, ""}:
            continue
        if there is None or there > ours.images.get(series, 0):
            found.append(series)
    return found


def _lacking(archive: Archive, uid: StudyUid, series: str, ours: Holding) -> int:
    """Count the images of a series that are there and not here.

    One whose SOP class the archive does not tell counts as an image: nothing else
    is expected in an MR series.
    """
    wanted = {"SeriesInstanceUID": series, "SOPInstanceUID": "", "SOPClassUID": ""}
    there = {
        text(one, "SOPInstanceUID")
        for one in _find(archive, uid, "IMAGE", **wanted)
        if text(one, "SOPClassUID") in {*IMAGES, ""}
    }
    return len(there - ours.objects - {""})


def listed(archive: Archive, uid: StudyUid) -> set[str]:
    """Return the SOP Instance UIDs that an archive lists of a study, but MR images.

    Raises:
        PeerUnavailableError: No answer in time, or the archive is out of resources.
        PeerRejectedError: The archive cannot process the query.
    """
    with silence():
        series = [
            text(one, "SeriesInstanceUID")
            for one in _find(archive, uid, "SERIES", Modality="")
            if text(one, "Modality") != MR
        ]
        return {
            text(one, "SOPInstanceUID")
            for each in series
            if each
            for one in _find(
                archive, uid, "IMAGE", SeriesInstanceUID=each, SOPInstanceUID=""
            )
        }


def _find(
    archive: Archive, uid: StudyUid, level: str, **keys: str
) -> Iterator[Dataset]:
    """Yield the matches of one query; answers about another study are left out."""
    if level != "STUDY":
        keys = {"SeriesInstanceUID": "", **keys}
    for match in find(archive, level, StudyInstanceUID=uid, **keys):
        if text(match, "StudyInstanceUID") in {uid, ""}:
            yield match


def find(archive: Archive, level: str, **keys: str) -> Iterator[Dataset]:
    """Yield the matches of one query (PS3.4 C.4.1); keys are attribute keywords.

    Raises:
        PeerUnavailableError: No answer in time, or the archive is out of resources.
        PeerRejectedError: The archive cannot process the query.
    """
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    until = time.monotonic() + archive.timeout
    for answers, (status, match) in enumerate(_responses(archive, query)):
        if status not in PENDING:
            judge(archive.peer, status)
            return
        if answers >= MAX_MATCHES or time.monotonic() > until:
            archive.association.abort()
            raise PeerUnavailableError(f"{archive.peer} does not come to an end")
        if match is not None:
            yield match


def _responses(
    archive: Archive, query: Dataset
) -> Iterator[tuple[int | None, Dataset | None]]:
    peer, association = archive.peer, archive.association
    try:
        for status, match in association.send_c_find(query, FIND):
            yield status_of(status), match
    except (RuntimeError, ValueError) as error:
        raise PeerUnavailableError(f"{peer} takes no query now") from error


def judge(peer: Peer, status: int | None) -> None:
    """Raise what a final status of a query or retrieval means, if it is no success.

    Raises:
        PeerUnavailableError: There was no answer, or the archive has no resources.
        PeerRejectedError: Any other failure.
    """
    if status is None:
        raise PeerUnavailableError(f"{peer} did not answer the query")
    if status == OUT_OF_RESOURCES:
        raise PeerUnavailableError(f"{peer} answered 0x{status:04X}", status)
    if status:
        raise PeerRejectedError(f"{peer} answered 0x{status:04X}", status)
