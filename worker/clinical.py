"""Clinical variables of a case: what each may hold, and when it is known.

Those of the paper's Table 1 are known before surgery; what only the operation shows
has a name of its own, so that no model of the time before can take it by mistake.
"""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

MAX_SIZE_CM: Final = 30
MAX_AGE: Final = 120


class Variable(StrEnum):
    """A clinical variable; its value is a column of every cohort."""

    SIZE_CM = "size_cm"
    AGE = "age"
    MENOPAUSE = "menopause"
    HISTOLOGY = "histology"
    GRADE = "grade"
    SUBTYPE = "subtype"
    BIRADS = "birads"
    MRI_ALN = "mri_aln"
    NEOADJUVANT = "neoadjuvant"
    SURGICAL_SIZE_CM = "surgical_size_cm"
    SURGICAL_GRADE = "surgical_grade"


POST_OPERATIVE: Final = frozenset({Variable.SURGICAL_SIZE_CM, Variable.SURGICAL_GRADE})
"""Known after surgery only: never an input of a model that is asked before it."""


def blank(text: object) -> object:
    """Read an empty cell, or the word unknown, as None."""
    unknown = isinstance(text, str) and text.strip().casefold() in {"", "unknown"}
    return None if unknown else text


def _flag(text: object) -> object:
    known = {"0": 0, "1": 1, "negative": 0, "positive": 1}
    return known.get(text.casefold(), text) if isinstance(text, str) else text


def _point(text: object) -> object:
    """Read a decimal comma; a comma that groups thousands fits no variable here."""
    return text.replace(",", ".") if isinstance(text, str) else text


def _name(text: object) -> object:
    """Read a name whatever its case and blanks: "luminal a" is "luminal A"."""
    if not isinstance(text, str):
        return text
    return NAMES.get(" ".join(text.casefold().replace("_", " ").split()), text)


NAMES: Final = {
    name.casefold(): name
    for name in (
        *("pre", "post", "ductal", "lobular", "other", "I", "II", "III"),
        *("luminal A", "luminal B", "HER2", "triple negative"),
        *("4A", "4B", "4C", "L", "R", "yes", "no"),
    )
}
BLANK: Final = BeforeValidator(blank)
NAMED: Final = BeforeValidator(_name)

Side = Annotated[Literal["L", "R"] | None, NAMED, BLANK]
Size = Annotated[
    Annotated[float, Field(gt=0, le=MAX_SIZE_CM, allow_inf_nan=False)] | None,
    BeforeValidator(_point),
    BLANK,
]
Age = Annotated[
    Annotated[float, Field(ge=0, le=MAX_AGE, allow_inf_nan=False)] | None,
    BeforeValidator(_point),
    BLANK,
]
Menopause = Annotated[Literal["pre", "post"] | None, NAMED, BLANK]
Histology = Annotated[Literal["ductal", "lobular", "other"] | None, NAMED, BLANK]
Grade = Annotated[Literal["I", "II", "III"] | None, NAMED, BLANK]
Subtype = Annotated[
    Literal["luminal A", "luminal B", "HER2", "triple negative"] | None, NAMED, BLANK
]
Birads = Annotated[
    Literal["0", "1", "2", "3", "4", "4A", "4B", "4C", "5", "6"] | None, NAMED, BLANK
]
Flag = Annotated[Literal[0, 1] | None, BeforeValidator(_flag), BLANK]
YesNo = Annotated[Literal["yes", "no"] | None, NAMED, BLANK]

TYPES: Final[dict[Variable, TypeAdapter[Any]]] = {
    Variable.SIZE_CM: TypeAdapter(Size),
    Variable.AGE: TypeAdapter(Age),
    Variable.MENOPAUSE: TypeAdapter(Menopause),
    Variable.HISTOLOGY: TypeAdapter(Histology),
    Variable.GRADE: TypeAdapter(Grade),
    Variable.SUBTYPE: TypeAdapter(Subtype),
    Variable.BIRADS: TypeAdapter(Birads),
    Variable.MRI_ALN: TypeAdapter(Flag),
    Variable.NEOADJUVANT: TypeAdapter(YesNo),
    Variable.SURGICAL_SIZE_CM: TypeAdapter(Size),
    Variable.SURGICAL_GRADE: TypeAdapter(Grade),
}
_CENTIMETRES: Final = f"a number of centimetres, above 0 and up to {MAX_SIZE_CM}"
ALLOWED: Final[dict[str, str]] = {
    Variable.SIZE_CM: f"{_CENTIMETRES}, or empty",
    Variable.AGE: f"a number of years, 0 to {MAX_AGE}, or empty",
    Variable.MENOPAUSE: "pre or post, or empty",
    Variable.HISTOLOGY: "ductal, lobular or other, or empty",
    Variable.GRADE: "I, II or III, or empty",
    Variable.SUBTYPE: "luminal A, luminal B, HER2 or triple negative, or empty",
    Variable.BIRADS: "0, 1, 2, 3, 4, 4A, 4B, 4C, 5 or 6, or empty",
    Variable.MRI_ALN: "0 or 1, or empty",
    Variable.NEOADJUVANT: "yes or no, or empty",
    Variable.SURGICAL_SIZE_CM: f"{_CENTIMETRES}, or empty",
    Variable.SURGICAL_GRADE: "I, II or III, or empty",
}
"""What each column may hold, for the sentence about one that does not."""


def canonical(variable: Variable, text: str) -> str | None:
    """Return a value as it is stored; None when the cell says nothing.

    Raises:
        ValueError: It is not what the variable may hold; the value is not quoted.
    """
    try:
        value = TYPES[variable].validate_python(text.strip())
    except ValidationError:
        raise ValueError(f"{variable} must be {ALLOWED[variable]}") from None
    return None if value is None else written(value)


def written(value: object) -> str:
    """Write a value as text: a whole number of a measure without its point."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)
