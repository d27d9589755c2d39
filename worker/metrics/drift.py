"""The newest report on drift of each stage, where the database has such reports."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dicom_node.db import UtcDateTime
from dicom_node.findings import Stage

TABLE: Final = "drift_report"
ALL_SCANNERS: Final = "all"

report: Final = sa.table(
    TABLE,
    sa.column("at", UtcDateTime),
    sa.column("stage", sa.String),
    sa.column("model", sa.String),
    sa.column("scanner", sa.String),
    sa.column("statistic", sa.String),
    sa.column("value", sa.Float),
    sa.column("p", sa.Float),
    sa.column("n", sa.Integer),
    sa.column("alarm", sa.Boolean),
)


@dataclass(frozen=True, slots=True)
class Drift:
    """One statistic of the newest report of a stage, over one scanner or all."""

    at: datetime
    stage: str
    model: str
    scanner: str
    statistic: str
    value: float
    p: float | None
    n: int
    alarm: bool


def newest(session: Session) -> tuple[Drift, ...]:
    """Return the newest report of each stage; nothing where nobody watches drift."""
    if not sa.inspect(session.connection()).has_table(TABLE):
        return ()
    found: list[Drift] = []
    for stage in Stage:
        of_stage = report.c.stage == str(stage)
        last = session.scalar(sa.select(sa.func.max(report.c.at)).where(of_stage))
        if last is not None:
            rows = session.execute(
                sa.select(report)
                .where(of_stage, report.c.at == last)
                .order_by(report.c.scanner, report.c.statistic)
            )
            found += [Drift(**row._mapping) for row in rows]  # noqa: SLF001 - its documented name
    return tuple(found)
