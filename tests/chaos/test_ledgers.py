"""The judge is judged: what is put wrong by hand in a ledger must be counted."""

import random
from io import BytesIO

import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE

from dicom_node import db
from dicom_node.association import pausing
from dicom_node.shared_spool import spool_of
from dicom_node.spool import INSTANCES
from dicom_node.tables import DocumentRow
from tests.chaos import ledgers, load, matrix, points
from tests.chaos.matrix import Job, Ordered, Run
from tests.chaos.nursery import Nursery
from tests.chaos.site import Site
from tests.chaos.triggers import Order
from worker.tables import StageRow

pytestmark = pytest.mark.e2e


class Undisturbed:
    """A site with two analysed studies, and what they gave."""

    def __init__(self, site):
        self.site = site
        self.sent = [load.study(f"control {n}", n) for n in range(2)]
        senders = matrix.sending(self.sent, site.port, 0.2)
        matrix.settle(site, self.sent, senders)
        with site.read() as session:
            self.reference = {
                each.variant: ledgers.values_of(
                    session, each.study_uid, ledgers.images_of(each)
                )
                for each in self.sent
            }

    def faults(self):
        return ledgers.check(self.site, self.sent, self.reference)

    def report(self):
        """Return the row of a report, and its data set."""
        with self.site.read() as session:
            row = session.scalars(
                sa.select(DocumentRow).where(DocumentRow.kind == "SR")
            ).first()
        return row, dcmread(spool_of(self.site.settings).root / row.path)


@pytest.fixture(scope="module")
def nursery():
    warm = Nursery()
    yield warm
    warm.close()


@pytest.fixture(scope="module")
def undisturbed(nursery, quick_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("control") / "site"
    site = Site(folder, points.SQLITE, nursery, quick_models)
    try:
        found = Undisturbed(site.start())
        assert list(found.faults()) == []
        yield found
    finally:
        site.close()


def test_a_file_that_is_taken_away_is_counted_as_lost(undisturbed):
    spool = spool_of(undisturbed.site.settings)
    path = spool.absolute(next(spool.iter_files(INSTANCES)))
    aside = path.rename(path.with_suffix(".aside"))
    found = undisturbed.faults()
    aside.rename(path)
    assert len(found.lost) == 1
    assert any("file_missing" in each for each in found.unclean)
    assert not found.duplicated
    assert not found.wrong


def test_a_file_without_a_row_is_counted_before_it_is_old(undisturbed):
    spool = spool_of(undisturbed.site.settings)
    path = spool.absolute(next(spool.iter_files(INSTANCES)))
    other = dcmread(path)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    stray = path.with_name(f"{'0' * 64}.dcm")
    other.save_as(stray)
    found = undisturbed.faults()
    stray.unlink()
    assert any("has no row" in each for each in found.unclean)


def test_a_second_report_at_the_archive_is_counted_as_duplicated(undisturbed):
    _, report = undisturbed.report()
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    entity = AE("ANYBODY")
    entity.add_requested_context(report.SOPClassUID)
    pacs = undisturbed.site.pacs
    association = pausing(entity.associate("127.0.0.1", pacs.port, ae_title="ORTHANC"))
    assert association.send_c_store(report).Status == 0
    association.release()
    found = undisturbed.faults()
    pacs.delete(f"/instances/{ledgers.identifier(report)}")
    assert len(found.duplicated) == 2, "once by C-FIND, once by the count of all"
    assert not found.lost
    assert not found.wrong


def test_a_report_that_the_archive_lost_is_counted_as_lost(undisturbed):
    _, report = undisturbed.report()
    pacs = undisturbed.site.pacs
    name = ledgers.identifier(report)
    file = pacs.file(name)
    pacs.delete(f"/instances/{name}")
    found = undisturbed.faults()
    entity = AE("ANYBODY")
    entity.add_requested_context(report.SOPClassUID)
    association = pausing(entity.associate("127.0.0.1", pacs.port, ae_title="ORTHANC"))
    association.send_c_store(dcmread(BytesIO(file)))
    association.release()
    assert len(found.lost) == 2
    assert not found.duplicated


@pytest.mark.parametrize("by", [1e-9, 0.1])
def test_a_changed_probability_is_counted_as_wrong(undisturbed, by):
    change = sa.update(StageRow).where(StageRow.probability.is_not(None))
    with db.writing(undisturbed.site.engine).begin() as session:
        session.execute(change.values(probability=StageRow.probability + by))
    found = undisturbed.faults()
    with db.writing(undisturbed.site.engine).begin() as session:
        for each in undisturbed.sent:
            values = undisturbed.reference[each.variant]
            for stage, _, probability, *_ in values["stages"]:
                _restore(session, each.study_uid, stage, probability)
    assert len(found.wrong) == len(undisturbed.sent)
    assert not found.lost


def _restore(session, study_uid, stage, probability):
    of_study = sa.text("SELECT result_id FROM result WHERE study_uid = :uid")
    result_ids = session.scalars(of_study, {"uid": study_uid}).all()
    session.execute(
        sa.update(StageRow)
        .where(StageRow.result_id.in_(result_ids), StageRow.stage == stage)
        .values(probability=probability)
    )


def test_a_point_that_does_not_fire_is_no_pass(undisturbed, monkeypatch):
    site = undisturbed.site
    monkeypatch.setattr(matrix, "UNFIRED_S", 1.0)
    point = points.BY_NAME["listener-before-row"]
    strike = Ordered(site, point, Order(point.name, occurrence=10_000))
    matrix.settle(site, undisturbed.sent, [], strike)
    run = Run(Job(point.name, 1, 0, points.SQLITE), fired=strike.fired())
    site.orders.take_back()
    assert run.failed
    assert list(run.sentences()) == ["the point did not fire"]


def test_a_seed_says_all_of_a_run():
    job = Job("delivery-mid-send", 7, 3, points.SQLITE)
    drawn = [[job.rng().random() for _ in range(5)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != [random.Random("7/delivery-mid-send/4").random()] * 5  # noqa: S311
    assert (
        job.again == "python -m tests.chaos --seed 7 --point delivery-mid-send --only 3"
    )
