"""Many analysed cases in a site's database within a second each: rows and files."""

import hashlib
import uuid
from copy import deepcopy
from datetime import timedelta

import numpy as np
from sqlalchemy import select, update

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.findings import Laterality, Slnd, SlndResult
from dicom_node.study import StudyState
from dicom_node.tables import StudyRow
from worker import crops, keeping, outcomes
from worker.case import KeptInput
from worker.tables import CaseRow, ResultRow, StageRow


def clone(row, **changed):
    values = {key: getattr(row, key) for key in row.__mapper__.columns.keys()}  # noqa: SIM118
    return type(row)(**{**values, **changed})


class Crowd:
    """Copies of one analysed study of the bench, each of another patient.

    The marked part of a positive case has a bright spot, so that a model can learn.
    """

    def __init__(self, bench, study, image):
        self.bench, self.image = bench, image
        self.rng = np.random.default_rng(3)
        with bench.sessions() as session:
            self.case = session.scalars(
                select(CaseRow).where(CaseRow.study_uid == study)
            ).one()
            self.result = session.scalars(
                select(ResultRow).where(ResultRow.study_uid == study)
            ).one()
            self.stages = session.scalars(
                select(StageRow).where(StageRow.result_id == self.result.result_id)
            ).all()
            session.expunge_all()

    def add(self, positive, *, gain=1.0, labelled=True, probability=0.3, at=None):
        """Add one case; return its result's identifier and its study."""
        image = self.draw(positive, gain)
        uid = self.bench.receive(image)
        at = at or now()
        result_id, case_id = str(uuid.uuid4()), str(uuid.uuid4())
        box = (
            self.result.roi_x0,
            self.result.roi_y0,
            self.result.roi_x1,
            self.result.roi_y1,
        )
        crop = crops.encode(crops.cut(image.pixel_array.astype(np.float32), box))
        with self.bench.sessions.begin() as session:
            session.execute(
                update(StudyRow)
                .where(StudyRow.study_uid == uid)
                .values(state=StudyState.ANALYZED)
            )
            ids = {"study_uid": uid, "result_id": result_id, "case_id": case_id}
            case = {"opened_at": at, "updated_at": at}
            session.add(clone(self.case, **ids, **case))
            session.flush()
            session.add(
                clone(
                    self.result,
                    **ids,
                    created_at=at,
                    source_sop_instance_uid=image.SOPInstanceUID,
                    roi_sop_instance_uid=image.SOPInstanceUID,
                    roi_marked_at=None,
                )
            )
            session.flush()
            for stage in self.stages:
                said = None if stage.probability is None else probability
                session.add(clone(stage, result_id=result_id, probability=said))
            self._keep(session, uid, result_id, crop)
            if labelled:
                self.say(session, uid, positive, at)
        return result_id, uid

    @staticmethod
    def say(session, uid, positive, at):
        """Record the dissection of a case."""
        result = Slnd.POSITIVE if positive else Slnd.NEGATIVE
        said = SlndResult(result, None, None, "board", at + timedelta(milliseconds=1))
        outcomes.record_slnd(session, uid, Laterality.LEFT, said, "me")

    def _keep(self, session, uid, result_id, crop):
        (stored,) = ledger.instances(session, uid)
        digest = self.bench.site.spool.describe(stored.path).sha256
        inputs = KeptInput(
            crop=crop,
            crop_sha256=hashlib.sha256(crop).hexdigest(),
            slice_path=self.bench.site.spool.absolute(stored.path),
            slice_sha256=digest,
        )
        keeping.write(self.bench.site.spool, inputs)
        keeping.record(session, result_id, uid, (inputs.crop_sha256, digest))

    def draw(self, positive, gain):
        """Return the slice of a new patient."""
        image = deepcopy(self.image)
        part = f"2.25.{uuid.uuid4().int}"
        image.StudyInstanceUID, image.SOPInstanceUID = part, f"{part}.1"[:64]
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.PatientID = f"P{uuid.uuid4().hex[:10]}"
        pixels = image.pixel_array.astype(np.float64)
        top, left = int(self.result.roi_y0), int(self.result.roi_x0)
        bottom, right = int(self.result.roi_y1), int(self.result.roi_x1)
        part = self.rng.normal(300, 60, (bottom - top, right - left))
        if positive:
            middle = part[part.shape[0] // 4 : -part.shape[0] // 4]
            middle += 260
        pixels[top:bottom, left:right] = np.clip(part * gain, 1, 4000)
        image.PixelData = pixels.astype(np.uint16).tobytes()
        return image
