"""The cases of the running service, as the trainer sees them: kept crops and scores."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import kept
from dicom_node.findings import Laterality, Stage
from dicom_node.spool import Spool
from worker import crops
from worker.crops import Crop
from worker.model_tables import ShadowScoreRow
from worker.tables import KeptRow, ResultRow, StageRow


@dataclass(frozen=True, slots=True)
class LiveCase:
    """The newest result of a case, with what the model in service said then."""

    result_id: str
    study_uid: str
    laterality: Laterality
    created_at: datetime
    area_mm2: float
    probability: float
    model: str
    crop_sha256: str
    slice_sha256: str

    @property
    def side(self) -> tuple[str, Laterality]:
        """Study and side."""
        return self.study_uid, self.laterality


def newest(
    session: Session, stage: Stage, limit: int, unscored_by: str | None = None
) -> list[LiveCase]:
    """Return scored cases whose crop is kept, newest first.

    Args:
        session: Of the installation's database.
        stage: Which has a probability.
        limit: At most so many.
        unscored_by: Only those that the shadow with these weights has not scored.
    """
    query = (
        select(ResultRow, StageRow, KeptRow)
        .join(StageRow, StageRow.result_id == ResultRow.result_id)
        .join(KeptRow, KeptRow.result_id == ResultRow.result_id)
        .where(
            StageRow.stage == stage,
            StageRow.probability.is_not(None),
            ResultRow.superseded_by.is_(None),
            KeptRow.crop_sha256.is_not(None),
            KeptRow.released_at.is_(None),
        )
        .order_by(ResultRow.created_at.desc())
        .limit(limit)
    )
    if unscored_by is not None:
        scored = select(ShadowScoreRow.result_id).where(
            ShadowScoreRow.stage == stage, ShadowScoreRow.weights_sha256 == unscored_by
        )
        query = query.where(ResultRow.result_id.not_in(scored))
    found = session.execute(query)
    return [_case(result, stage_row, record) for result, stage_row, record in found]


def _case(result: ResultRow, stage: StageRow, record: KeptRow) -> LiveCase:
    return LiveCase(
        result_id=result.result_id,
        study_uid=result.study_uid,
        laterality=result.laterality,
        created_at=result.created_at,
        area_mm2=result.area_mm2,
        probability=float(stage.probability or 0.0),
        model=str(stage.model),
        crop_sha256=str(record.crop_sha256),
        slice_sha256=record.slice_sha256,
    )


def crop(spool: Spool, case: LiveCase) -> Crop:
    """Read the crop that a result was computed from.

    Raises:
        UnreadableObjectError: It is missing or damaged.
    """
    return crops.decode(kept.read_crop(spool, case.crop_sha256))
