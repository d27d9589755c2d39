"""One row of a cohort: a patient's marked slice, role, labels and clinical variables.

The clinical variables are those of the paper's Table 1, as known before surgery.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from dicom_node.findings import Stage
from training.scores import INTERNAL, TRAINING
from worker import clinical
from worker.clinical import (
    Age,
    Birads,
    Flag,
    Grade,
    Histology,
    Menopause,
    Side,
    Size,
    Subtype,
    YesNo,
    written,
)

UNKNOWN: Final = -1
REQUIRED: Final = (
    *("case_id", "patient_key", "role", "sln", "nsln"),
    *("image", "frame", "x0", "y0", "x1", "y1"),
)
NEGATIVE: Final = ("0", "negative", "neg")
POSITIVE: Final = ("1", "positive", "pos")
LABELS: Final = {
    **dict.fromkeys(NEGATIVE, 0),
    **dict.fromkeys(POSITIVE, 1),
    **dict.fromkeys(("unknown", ""), UNKNOWN),
}
WRITTEN: Final = {0: "0", 1: "1", UNKNOWN: "unknown"}
DEVELOPMENT: Final = "development"
HOLDOUT: Final = "holdout"
COHORTS: Final = {DEVELOPMENT: TRAINING, HOLDOUT: INTERNAL}
SIZE_CUT_CM: Final = 2.0
"""T1 reaches up to and including it; strata, tables and subgroups divide here."""


def _label(text: object) -> object:
    return LABELS.get(text.casefold(), text) if isinstance(text, str) else text


Label = Annotated[Literal[0, 1, -1], BeforeValidator(_label)]
Edge = Annotated[float, Field(allow_inf_nan=False)]


class CohortRow(BaseModel):
    """One patient, one side, one study; None is unknown.

    `image` is relative to the cohort's folder; the rectangle is in continuous
    pixels, (0, 0) at the image's outer corner. `frame` counts from 1. `cohort` is the
    column of the report's tables. `sln` and `nsln` are 0, 1, or -1 for unknown.
    `pixel_sha256` digests the marked pixels once they were read; `flags` are codes of
    what a reader of the cohort should know of the case.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    case_id: str = Field(min_length=1, max_length=128)
    study_uid: str = ""
    patient_key: str = Field(min_length=1)
    centre: str = ""
    cohort: str = ""
    role: Literal["development", "holdout", "external"]
    laterality: Side = None
    sln: Label
    nsln: Label
    size_cm: Size = None
    age: Age = None
    menopause: Menopause = None
    histology: Histology = None
    grade: Grade = None
    subtype: Subtype = None
    birads: Birads = None
    mri_aln: Flag = None
    neoadjuvant: YesNo = None
    image: Path
    sop_instance_uid: str = ""
    frame: int = Field(ge=1)
    x0: Edge
    y0: Edge
    x1: Edge
    y1: Edge
    pixel_sha256: str = ""
    flags: str = ""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1)."""
        return (self.x0, self.y0, self.x1, self.y1)

    @property
    def size_group(self) -> str | None:
        """T1 or larger, as tables say it; None is unknown."""
        if self.size_cm is None:
            return None
        return "<= 2 cm" if self.size_cm <= SIZE_CUT_CM else "> 2 cm"

    def label(self, stage: Stage) -> int:
        """0, 1 or -1 for unknown; stage II is asked of SLN-positive cases only."""
        if stage is Stage.SLN:
            return self.sln
        return self.nsln if self.sln == 1 else UNKNOWN

    @model_validator(mode="before")
    @classmethod
    def _name_the_cohort(cls, data: Any) -> Any:  # noqa: ANN401 - any mapping
        """Name the cohort of a row without one, or by its old name, after its role."""
        said = data.get("cohort") or ""
        if said in {"", "train"}:
            centre = data.get("centre") or ""
            external = f"ext {centre}".strip()
            return {**data, "cohort": COHORTS.get(str(data.get("role")), external)}
        return data

    @model_validator(mode="after")
    def _check(self) -> "CohortRow":
        if self.x0 >= self.x1 or self.y0 >= self.y1:
            raise ValueError("x0..y1: the rectangle is empty: x0 < x1 and y0 < y1")
        if self.image.is_absolute() or ".." in self.image.parts:
            raise ValueError("image: must be a path inside the cohort's folder")
        return self


COLUMNS: Final = (*CohortRow.model_fields, "sln_verified")
"""Columns as they are written; `sln_verified` follows from `sln`: was there a SLND?"""


def row_of(cells: Mapping[str, str]) -> CohortRow:
    """Read a row.

    Raises:
        ValueError: The message names every wrong column and what it may hold; values
            are not quoted.
    """
    try:
        return CohortRow.model_validate(dict(cells))
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        said = (_fault(one["loc"], one["msg"]) for one in faults)
        raise ValueError("; ".join(said)) from None


def _fault(where: tuple[int | str, ...], message: str) -> str:
    text = message.removeprefix("Value error, ")
    if not where:
        return text
    column = str(where[0])
    wanted = ALLOWED.get(column)
    return f"{column}: must be {wanted}" if wanted else f"{column}: {text}"


ALLOWED: Final = {
    **clinical.ALLOWED,
    "role": "development, holdout or external",
    "laterality": "L or R, or empty",
    "sln": "0, 1 or unknown",
    "nsln": "0, 1 or unknown",
    "frame": "a whole number from 1",
    **dict.fromkeys(("x0", "y0", "x1", "y1"), "a finite number of pixels"),
}


def cells(row: CohortRow) -> dict[str, str]:
    """Write a row as text, as `cohort.csv` has it; `row_of` gives the same row."""
    fields = {name: _cell(name, getattr(row, name)) for name in CohortRow.model_fields}
    return fields | {"sln_verified": "no" if row.sln == UNKNOWN else "yes"}


def _cell(name: str, value: object) -> str:
    if name in {"sln", "nsln"} and isinstance(value, int):
        return WRITTEN[value]
    if isinstance(value, Path):
        return value.as_posix()
    return "" if value is None else written(value)
