"""What a study costs after it is complete, and how long its report takes."""

import time
from datetime import timedelta
from itertools import count
from pathlib import Path

import sqlalchemy as sa
import torch
from pydicom import Dataset

from dicom_node import db, schema
from dicom_node.settings import load
from dicom_node.spool import Spool
from dicom_node.study import Peer, StudyUid
from dicom_node.tables import DeliveryRow, DeliveryState, DocumentRow, StudyRow
from tests import dicom_objects
from tests.benchmarks.measuring import Line
from tests.benchmarks.receiving import theirs
from tests.peers import Orthanc, Sentinode, dcmsend, wait_until
from tests.quick_models import write_models
from tests.worker.conftest import DEVICE, Bench
from worker import models, weights
from worker.pipeline import Cascade
from worker.settings import WorkerSettings
from worker.tasks import analysis, delivery

CPU = torch.device("cpu")
EACH = 5
"""Studies that one round works on."""

PHASES, SLICES = 5, 24
QUIET_S = 1.0


def marked(name: str, phases: int = PHASES, slices: int = SLICES) -> list[Dataset]:
    """A dynamic study of 120 images with a rectangle drawn on one."""
    images = dicom_objects.fresh_study(name, phases=phases, slices=slices)
    middle = images[slices + slices // 2]
    return [*images, dicom_objects.gsps_rectangle([middle])]


def cost(folder: Path, rounds: int) -> list[Line]:
    """Measure P6: CPU of this process from complete to stored at the PACS.

    Both stages run, as at a site that wants the second before the dissection; the PACS
    is DCMTK's, in a process of its own.
    """
    torch.set_num_threads(1)
    store = write_models(folder / "models")
    with theirs(folder / "pacs", "storescp", "+B") as pacs:
        settings = load(
            WorkerSettings,
            data_dir=folder / "site",
            models_dir=store,
            pacs=(pacs.address,),
            stage_two="conditional",
        )
        schema.upgrade(settings.database)
        settings.spool.mkdir(parents=True)
        sessions = db.writing(db.connect(settings.database))
        site = analysis.Site(sessions, Spool(settings.spool), settings, DEVICE)
        bench = Bench(site)
        cascade = _cascade(store)
        fresh = count()

        def part(phases: int, slices: int) -> tuple[float, float]:
            uids = []
            for _ in range(EACH):
                images = marked(f"cost {next(fresh)}", phases, slices)
                uids.append(bench.receive(*images))
                bench.queue(uids[-1])
            return _spent(bench, uids, cascade, Peer.parse(pacs.address))

        part(3, 3)
        found = [part(PHASES, SLICES) for _ in range(rounds)]
        small = [part(3, 3) for _ in range(rounds)]
    whole = f"study of {PHASES * SLICES} images, complete to stored at the PACS, CPU"
    return [
        Line("P6", whole, "ms", [a + b for a, b in found], wanted=120),
        Line(
            "", "of it: analysis to the committed result", "ms", [a for a, _ in found]
        ),
        Line("", "of it: delivery", "ms", [b for _, b in found]),
        Line("", "study of 9 images", "ms", [a + b for a, b in small]),
    ]


def _cascade(store: Path) -> Cascade:
    found = {model.stage: model for model in models.installed(store)}
    sln, nsln = (
        weights.load_stage(
            models.folder(store, found[stage].name, found[stage].version), CPU
        )
        for stage in ("SLN", "NSLN")
    )
    return Cascade(sln, nsln, {})


def _spent(
    bench: Bench, uids: list[StudyUid], cascade: Cascade, pacs: Peer
) -> tuple[float, float]:
    """Return CPU ms per study of the analysis, and of the delivery."""
    site = bench.site
    begun = time.process_time()
    for uid in uids:
        assert analysis.analyze(uid, site, lambda _: cascade)
    analysed = time.process_time()
    delivery.deliver(str(pacs), delivery.Site(site.sessions, site.spool, site.settings))
    sent = time.process_time()
    with site.sessions() as session:
        left = sa.select(DeliveryRow).where(DeliveryRow.state != DeliveryState.SENT)
        assert session.scalars(left).first() is None
    return (analysed - begun) * 1000 / len(uids), (sent - analysed) * 1000 / len(uids)


def latency(folder: Path, studies: int) -> list[Line]:
    """Measure P7 on the whole system: `sentinode up`, Orthanc, dcmsend.

    The time runs from the moment when the study is complete, the quiet period over, to
    the moment when the PACS has answered Success to its report.
    """
    store = write_models(folder / "models")
    site = Sentinode(folder / "site", store)
    pacs = Orthanc(folder / "pacs", site.port).start()
    site.use(str(pacs), str(QUIET_S), "--allow", "ORTHANC")
    site.start()
    try:
        idle = _live(site, folder, "idle", studies)
        busy = _live(site, folder, "busy", studies // 2, bulk=True)
    finally:
        site.stop()
        pacs.stop()
    what = "latency from complete to the report at the PACS"
    return [
        Line("P7", f"{what}, idle, median", "s", idle, wanted=0.6),
        Line("P7", f"{what}, idle, p95", "s", idle, wanted=1.2, share=0.95),
        Line("", f"{what}, bulk work under way, median", "s", busy),
        Line("", f"{what}, bulk work under way, p95", "s", busy, share=0.95),
    ]


def _make_bulk(site: Sentinode) -> None:
    everything = ("--everything", "--force", "--from", "roi", "--yes")
    done = site.run("studies", "reprocess", *everything)
    assert done.returncode == 0, done.stderr


def _live(
    site: Sentinode, folder: Path, name: str, studies: int, *, bulk: bool = False
) -> list[float]:
    """Send studies one by one; return the seconds that each report took.

    With `bulk` all earlier ones are to be done again when each comes.
    """
    taken = []
    for number in range(studies):
        objects = marked(f"{name} {number}", 3, 3)
        place = folder / f"{name}-{number}"
        place.mkdir()
        for each, one in enumerate(objects):
            one.save_as(place / f"{each}.dcm", enforce_file_format=True)
        if bulk:
            _make_bulk(site)
        dcmsend(str(site), place)
        uid = StudyUid(objects[0].StudyInstanceUID)
        taken.append(wait_until(lambda uid=uid: _took(site, uid), "the report", 120))
    return taken


def _took(site: Sentinode, uid: StudyUid) -> float | None:
    """Return the seconds from complete to sent, None while it is not."""
    engine = db.connect(f"sqlite:///{site.folder / 'sentinode.db'}")
    with db.reading(engine)() as session:
        sent = session.scalar(
            sa.select(sa.func.min(DeliveryRow.sent_at))
            .join(
                DocumentRow,
                DocumentRow.sop_instance_uid == DeliveryRow.sop_instance_uid,
            )
            .where(DeliveryRow.study_uid == uid, DocumentRow.kind == "SR")
        )
        queued = session.scalar(
            sa.select(StudyRow.queued_at).where(StudyRow.study_uid == uid)
        )
    engine.dispose()
    if sent is None or queued is None:
        return None
    return max((sent - queued) / timedelta(seconds=1), 0.0) or None
