"""What stage I said of each case when it was live: a file of its own, never a label.

It tells in which risk group labels were verified, which is how verification bias
shows. No model may be trained on it.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicom_node.errors import SettingsError

STAGE_ONE_NAME: Final = "stage_one.csv"


class StageOne(BaseModel):
    """Stage I of one case: probability, the threshold then, and which model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case_id: str
    probability: float = Field(ge=0, le=1)
    threshold: float = Field(ge=0, le=1)
    risk: Literal["low", "high"]
    model: str
    weights_sha256: str


def encode(said: Iterable[StageOne]) -> bytes:
    """Write what stage I said as CSV."""
    stream = io.StringIO(newline="")
    table = csv.DictWriter(stream, list(StageOne.model_fields), lineterminator="\n")
    table.writeheader()
    table.writerows(one.model_dump() for one in said)
    return stream.getvalue().encode()


def read(folder: Path) -> dict[str, StageOne]:
    """Read what stage I said, by case; empty for a cohort that never was live.

    Raises:
        SettingsError: The file is faulty.
    """
    path = folder / STAGE_ONE_NAME
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [StageOne.model_validate(row) for row in csv.DictReader(stream)]
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        raise SettingsError(f"{path}: {fault['loc'][0]}: {fault['msg']}") from error
    return {row.case_id: row for row in rows}
