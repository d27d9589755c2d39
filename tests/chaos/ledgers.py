"""Do files, SQL and the PACS say the same, and what they said without a kill?

Three ledgers, each read in its own way: the spool as files, the database by its
tables, the PACS by C-FIND and by the bytes that it holds. Nothing of the product
judges here but `reconcile`, which is asked as well.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import sqlalchemy as sa
from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node import db
from dicom_node.association import pausing
from dicom_node.part10 import read_meta
from dicom_node.shared_spool import spool_of
from dicom_node.spool import DOCUMENTS, INSTANCES, QUARANTINE, Spool
from dicom_node.study import StudyState
from dicom_node.tables import (
    ConflictRow,
    DeliveryRow,
    DeliveryState,
    DocumentRow,
    InstanceRow,
    StudyRow,
)
from tests.chaos.load import Shipment
from tests.chaos.site import Site
from worker import retention, survey
from worker.retention import Store
from worker.survey import Ground
from worker.tables import CaseRow, ResultRow, StageRow

FIND = StudyRootQueryRetrieveInformationModelFind
PENDING = (0xFF00, 0xFF01)
LATER = timedelta(hours=3)
"""After this no file is too young, and nothing waits long enough, to be looked over."""

Values = Mapping[str, object]
"""What an analysis of one variant says: compared as it is."""


@dataclass(slots=True)
class Faults:
    """What is wrong, sentence by sentence, in the columns of the table."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unclean: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        for name, sentences in asdict(self).items():
            yield from (f"{name}: {each}" for each in sentences)

    def __bool__(self) -> bool:
        return any(self)


def check(
    site: Site, sent: Sequence[Shipment], reference: Mapping[int, Values]
) -> Faults:
    """Compare the three ledgers of a site with all that was ever sent to it."""
    faults = Faults()
    spool = spool_of(site.settings)
    with site.read() as session:
        for each in sent:
            _check_study(session, each, reference, faults)
        _check_instances(session, spool, sent, faults)
        documents = session.scalars(sa.select(DocumentRow)).all()
        _check_documents(spool, documents, faults)
    _check_archive(site, spool, sent, documents, faults)
    _reconcile(site, spool, faults)
    return faults


def values_of(session: sa.orm.Session, study_uid: str, images: Sequence[str]) -> Values:
    """Return what the only result of a study says, free of UIDs and of times."""
    result = session.scalars(
        sa.select(ResultRow).where(
            ResultRow.study_uid == study_uid, ResultRow.superseded_by.is_(None)
        )
    ).one()
    stages = session.scalars(
        sa.select(StageRow)
        .where(StageRow.result_id == result.result_id)
        .order_by(StageRow.stage)
    ).all()
    kinds = session.scalars(
        sa.select(DocumentRow.kind).where(DocumentRow.result_id == result.result_id)
    )
    numbers = {uid: number for number, uid in enumerate(images)}
    return {
        "side": result.laterality,
        "pathway": result.pathway,
        "version": result.version,
        "box": (result.roi_x0, result.roi_y0, result.roi_x1, result.roi_y1),
        "carrier": result.roi_carrier,
        "marked": numbers.get(result.roi_sop_instance_uid),
        "slice": numbers.get(result.source_sop_instance_uid),
        "phase": result.phase,
        "stages": [
            (one.stage, one.status, one.probability, one.threshold, one.risk, one.model)
            for one in stages
        ],
        "documents": sorted(kinds),
    }


def images_of(shipment: Shipment) -> list[str]:
    """Return the UIDs of a study's objects in the order of their making."""
    return [str(each.SOPInstanceUID) for each in shipment.objects]


def _check_study(session, shipment: Shipment, reference, faults: Faults) -> None:
    uid = shipment.study_uid
    if not shipment.is_kept:
        faults.lost.append(f"study {uid} was never taken as a whole")
        return
    row = session.get(StudyRow, uid)
    if row is None or row.state is not StudyState.ANALYZED:
        state = "unknown" if row is None else f"{row.state} {row.reason} {row.detail}"
        faults.lost.append(f"study {uid} is {state}")
        return
    cases = session.scalars(sa.select(CaseRow).where(CaseRow.study_uid == uid)).all()
    results = session.scalars(
        sa.select(ResultRow.result_id).where(ResultRow.study_uid == uid)
    ).all()
    if not results:
        faults.lost.append(f"study {uid} has no result")
        return
    if len(cases) > 1 or len(results) > 1:
        faults.duplicated.append(
            f"study {uid}: {len(cases)} cases, {len(results)} results"
        )
    values = values_of(session, uid, images_of(shipment))
    for key, expected in reference.get(shipment.variant, values).items():
        if values[key] != expected:
            text = f"study {uid}: {key} is {values[key]}, undisturbed {expected}"
            faults.wrong.append(text)
    _check_paperwork(session, results, faults)


def _check_paperwork(session, results: Sequence[str], faults: Faults) -> None:
    """One report for each result, and each document on its way once, and sent."""
    for result_id in results:
        kinds = Counter(
            session.scalars(
                sa.select(DocumentRow.kind).where(DocumentRow.result_id == result_id)
            )
        )
        if not kinds["SR"]:
            faults.lost.append(f"result {result_id} has no report")
        for kind, count in kinds.items():
            if count > 1:
                faults.duplicated.append(f"result {result_id}: {count} {kind}")
        states = session.scalars(
            sa.select(DeliveryRow.state).where(DeliveryRow.result_id == result_id)
        ).all()
        if len(states) < kinds.total() or set(states) != {DeliveryState.SENT}:
            faults.lost.append(f"result {result_id}: deliveries are {states}")
        elif len(states) > kinds.total():
            faults.duplicated.append(f"result {result_id}: {len(states)} deliveries")


def _check_instances(session, spool: Spool, sent, faults: Faults) -> None:
    """Every object that got Success has one file with its bytes, and one row."""
    files = {}
    for path in spool.iter_files(INSTANCES):
        with spool.open(path) as stream:
            uid = read_meta(stream).sop_instance_uid
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if uid in files:
            faults.duplicated.append(f"object {uid} has two files")
        files[uid] = digest
    rows = dict(
        session.execute(
            sa.select(InstanceRow.sop_instance_uid, InstanceRow.sha256)
        ).all()
    )
    kept = {uid: each.digests[uid] for each in sent for uid in each.kept}
    for uid, digest in kept.items():
        if uid not in files:
            faults.lost.append(f"object {uid} got Success and has no file")
        elif files[uid] != digest:
            faults.wrong.append(f"object {uid} has other bytes than were sent")
        if uid not in rows:
            faults.lost.append(f"object {uid} got Success and has no row")
        elif rows[uid] != digest:
            faults.wrong.append(f"object {uid} has another digest in SQL")
    faults.unclean += [
        f"file of {uid} has no row" for uid in files.keys() - rows.keys()
    ]
    faults.unclean += [
        f"row of {uid} has no file" for uid in rows.keys() - files.keys()
    ]
    conflicts = session.scalars(sa.select(ConflictRow.sop_instance_uid)).all()
    faults.wrong += [f"object {uid} was taken for another" for uid in conflicts]
    faults.unclean += [f"{path}" for path in spool.iter_files(QUARANTINE)]


def _check_documents(spool: Spool, documents, faults: Faults) -> None:
    """Every frozen document has the bytes that SQL says."""
    for row in documents:
        path = spool.root / row.path
        if not path.is_file():
            faults.lost.append(f"document {row.sop_instance_uid} has no file")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != row.sha256:
            faults.wrong.append(f"document {row.sop_instance_uid} has other bytes")


def _check_archive(site: Site, spool: Spool, sent, documents, faults: Faults) -> None:
    """The PACS holds what SQL froze for it, the same data sets, and nothing else."""
    ours = {row.sop_instance_uid: row for row in documents}
    with querying(site) as ask:
        for each in sent:
            held = Counter(instances_at(ask, each.study_uid))
            due = {u for u, row in ours.items() if row.study_uid == each.study_uid}
            faults.duplicated += [
                f"the PACS lists {uid} {count} times, SQL {int(uid in due)}"
                for uid, count in held.items()
                if uid not in due or count > 1
            ]
            for uid in due:
                if uid not in held:
                    text = f"the PACS does not hold {ours[uid].kind} {uid}"
                    faults.lost.append(text)
                elif not _is_same(site, spool.root / ours[uid].path):
                    faults.wrong.append(
                        f"the PACS holds another {ours[uid].kind}: {uid}"
                    )
    count = site.pacs.get("/statistics")["CountInstances"]
    if count != len(ours):
        text = f"the PACS holds {count} objects in all, SQL froze {len(ours)}"
        (faults.duplicated if count > len(ours) else faults.lost).append(text)


def _is_same(site: Site, path: Path) -> bool:
    frozen = dcmread(path)
    return dcmread(BytesIO(site.pacs.file(identifier(frozen)))) == frozen


def identifier(dataset: Dataset) -> str:
    """Return what Orthanc calls an object."""
    names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    text = "|".join(str(dataset.get(name, "")) for name in names)
    digest = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - Orthanc's choice
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


Ask = Callable[[Mapping[str, str]], list[Dataset]]


@contextmanager
def querying(site: Site) -> Iterator[Ask]:
    """Yield what asks the PACS by C-FIND, over one association."""
    entity = AE("CHAOS")
    entity.add_requested_context(FIND)
    association = pausing(
        entity.associate("127.0.0.1", site.pacs.port, ae_title="ORTHANC")
    )
    assert association.is_established, "the PACS takes no query"

    def ask(keys: Mapping[str, str]) -> list[Dataset]:
        query = Dataset()
        for keyword, value in keys.items():
            setattr(query, keyword, value)
        answers = list(association.send_c_find(query, FIND))
        assert answers[-1][0].Status == 0, "the PACS does not answer a query"
        return [found for status, found in answers if status.Status in PENDING]

    try:
        yield ask
    finally:
        association.release()


def instances_at(ask: Ask, study_uid: str) -> list[str]:
    """Return the SOP Instance UIDs that the PACS lists of a study."""
    keys = {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": study_uid}
    return [str(one.SOPInstanceUID) for one in ask({**keys, "SOPInstanceUID": ""})]


def _reconcile(site: Site, spool: Spool, faults: Faults) -> None:
    """Ask `reconcile` now, and its checks once more as if hours had passed."""
    code, said, error = site.command("reconcile", "--digests", "--json")
    found = json.loads(said)["findings"] if said else []
    faults.unclean += [f"reconcile: {one['code']} {one['detail']}" for one in found]
    if code and not found:
        faults.unclean.append(f"reconcile: {error}")
    later = db.now() + LATER
    retention.sweep(Store(db.writing(site.engine), spool), None, later)
    with site.read() as session:
        ground = Ground(spool, site.settings, later)
        for _, look in survey.CHECKS:
            faults.unclean += [
                f"hours later: {one.code} {one.detail} {one.subject}"
                for one in look(session, ground)
            ]
    left = {path.relative_to(spool.root).as_posix() for path in _document_files(spool)}
    with site.read() as session:
        left -= set(session.scalars(sa.select(DocumentRow.path)))
    faults.unclean += [f"hours later: no row for {path}" for path in left]


def _document_files(spool: Spool) -> Collection[Path]:
    return list((spool.root / DOCUMENTS).glob("*/*.dcm"))
