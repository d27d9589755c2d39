"""A whole installation under load, an archive that counts, and what came of it all."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from sqlalchemy import func, select

from dicom_node import db
from dicom_node.association import pausing
from dicom_node.study import StudyState
from dicom_node.tables import DeliveryRow, DeliveryState, EventRow, StudyRow
from tests import dicom_objects
from tests.archives import Archive
from tests.peers import AET, ORTHANC_AET, Sentinode, dcmsend, wait_until
from worker.tables import ResultRow

OBJECTS = 10
"""Nine images and a rectangle: what one study is sent as."""

SETTINGS = {
    "SENTINODE_ANALYSIS_TIME_LIMIT": "20",
    "SENTINODE_COMPLETE_EARLY": "false",
    "SENTINODE_DELIVERY_TIME_LIMIT": "20",
    "SENTINODE_HTTP_PORT": "0",
    "SENTINODE_MIN_FREE_BYTES": "1",
    "SENTINODE_RESEND_AFTER": "2",
}
"""Short times, so that what was lost is missed soon."""


@dataclass(frozen=True)
class Found:
    """What the database says at the end, for each study."""

    states: dict[str, str]
    instances: dict[str, int]
    results: Counter
    claims: Counter


@dataclass
class Installation:
    """`sentinode up`, and what is sent to it."""

    sentinode: Sentinode
    archive: Archive
    url: str
    sent: list[str] = field(default_factory=list)
    answers: Counter = field(default_factory=Counter)

    @classmethod
    def of(cls, folder: Path, models: Path, **settings: str) -> "Installation":
        sentinode = Sentinode(folder / "sentinode", models)
        sentinode.extra = {**SETTINGS, **settings}
        archive = Archive()
        allow = ("--allow", f"{ORTHANC_AET}@127.0.0.1")
        sentinode.use(str(archive.start()), "1", *allow)
        own = f"sqlite:///{sentinode.folder / 'sentinode.db'}"
        url = settings.get("SENTINODE_DATABASE_URL", own)
        return cls(sentinode.start(), archive, url)

    def stop(self) -> None:
        self.sentinode.stop()
        self.archive.stop()

    def send(self, folder: Path, name: str) -> str:
        """Send one study with DCMTK; every object is answered with Success."""
        uid, files = write_study(folder / name, name)
        dcmsend(str(self.sentinode), *files)
        self.sent.append(uid)
        return uid

    def send_until_taken(self, uid: str, files: list[Path]) -> None:
        """Send one study as a modality does: what is refused is sent again."""
        left = [dcmread(file) for file in files]
        while left:
            left = self._refused(left)
            time.sleep(0.3 if left else 0)
        self.sent.append(uid)

    def _refused(self, objects: list[Dataset]) -> list[Dataset]:
        """Offer objects over one association; return those that must come again."""
        entity = AE(ORTHANC_AET)
        for sop_class in {one.SOPClassUID for one in objects}:
            entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
        association = pausing(
            entity.associate("127.0.0.1", self.sentinode.port, ae_title=AET)
        )
        assert association.is_established
        statuses = [association.send_c_store(one).Status for one in objects]
        association.release()
        self.answers.update(statuses)
        return [one for one, status in zip(objects, statuses, strict=True) if status]

    def look(self) -> Found:
        engine = db.connect(self.url)
        count = func.count()
        with db.reading(engine)() as session:
            studies = session.execute(
                select(StudyRow.study_uid, StudyRow.state, StudyRow.instances)
            ).all()
            results = session.execute(
                select(ResultRow.study_uid, count).group_by(ResultRow.study_uid)
            ).all()
            claims = session.execute(
                select(EventRow.study_uid, count)
                .where(EventRow.what == "analyzing")
                .group_by(EventRow.study_uid)
            ).all()
        engine.dispose()
        return Found(
            {uid: str(state) for uid, state, _ in studies},
            {uid: instances for uid, _, instances in studies},
            Counter(dict(map(tuple, results))),
            Counter(dict(map(tuple, claims))),
        )

    def undelivered(self) -> int:
        engine = db.connect(self.url)
        open_states = (DeliveryState.DUE, DeliveryState.FAILED)
        with db.reading(engine)() as session:
            found = session.scalar(
                select(func.count())
                .select_from(DeliveryRow)
                .where(DeliveryRow.state.in_(open_states))
            )
        engine.dispose()
        return int(found)

    def is_done(self) -> bool:
        states = self.look().states
        return (
            set(self.sent) <= states.keys()
            and set(states.values()) == {StudyState.ANALYZED}
            and not self.undelivered()
        )

    def await_all(self, timeout: float = 90.0) -> Found:
        """Wait until everything is analysed and delivered; return what there is."""
        try:
            wait_until(self.is_done, "the end of all studies", timeout)
        except AssertionError as error:
            text = f"{error}\n{self.look()}\n{self.sentinode.logs()}"
            raise AssertionError(text) from None
        return self.look()

    def assert_nothing_lost_or_doubled(self, *, again: bool = False) -> Found:
        """Compare what was sent with the database and with what the archive got.

        With `again` an object may have been sent twice: one whose status could not be
        entered. It bears the same UID, by which an archive knows it.
        """
        found = self.await_all()
        received = Counter(uid for _, uid in self.archive.received)
        assert found.instances == dict.fromkeys(self.sent, OBJECTS)
        assert found.results == Counter(self.sent)
        assert len(received) == 2 * len(self.sent)  # a report and a capture of each
        assert again or set(received.values()) == {1}
        return found


def write_study(folder: Path, name: str) -> tuple[str, list[Path]]:
    """Write a dynamic study with its rectangle; return its UID and files."""
    slices = dicom_objects.fresh_study(name)
    mark = dicom_objects.gsps_rectangle([slices[4]])
    folder.mkdir(parents=True)
    files = []
    for number, one in enumerate((*slices, mark)):
        files.append(folder / f"{number:02}.dcm")
        one.save_as(files[-1], enforce_file_format=True)
    return str(slices[0].StudyInstanceUID), files
