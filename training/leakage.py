"""Guards against leakage: each is a rule whose breach would make a result worthless.

A network that has seen a case, its patient or its pixels in any role scores it too
well. Every guard raises before anything is trained and names the cases, never a
patient.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch

from dicom_node.errors import SettingsError
from training.cohort import CohortRow
from training.row import DEVELOPMENT

MAX_NAMED = 5
SAME_PATIENT = "are of one patient"


def named(case_ids: Sequence[str]) -> str:
    """Name the first cases of many in a sentence."""
    rest = len(case_ids) - MAX_NAMED
    return ", ".join(case_ids[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def check_patients(rows: Sequence[CohortRow]) -> None:
    """Refuse a patient with two roles or in two centres.

    Raises:
        SettingsError: There is one; both cases are named.
    """
    patients = {row.case_id: row.patient_key for row in rows}
    roles = {row.case_id: f"role {row.role}" for row in rows}
    centres = {row.case_id: f"centre {row.centre or 'unknown'}" for row in rows}
    check_apart(patients, roles, SAME_PATIENT)
    check_apart(patients, centres, SAME_PATIENT)


def check_pixels(rows: Sequence[CohortRow], parts: Mapping[str, str]) -> None:
    """Refuse the same pixels in two roles or folds; `parts` are these, by case.

    Raises:
        SettingsError: There are such; both cases are named.
    """
    pixels = {row.case_id: row.pixel_sha256 for row in rows if row.pixel_sha256}
    check_apart(pixels, parts, "have the same pixels")


def check_development(rows: Iterable[CohortRow]) -> None:
    """Refuse any case that is not for development: the trainer may not see it.

    Raises:
        SettingsError: A held-out or external case is among the rows.
    """
    others = [row.case_id for row in rows if row.role != DEVELOPMENT]
    if others:
        raise SettingsError(
            f"{named(others)}: only cases of role {DEVELOPMENT} may be trained on"
        )


def check_apart(groups: Mapping[str, str], parts: Mapping[str, str], what: str) -> None:
    """Refuse a group that lies in two parts.

    Args:
        groups: What may not be divided, by case: a patient, or a digest of pixels.
        parts: Fold or role, by case.
        what: The group in words, for people.

    Raises:
        SettingsError: A group is in two parts; both cases are named.
    """
    first: dict[str, str] = {}
    for case_id, group in groups.items():
        known = first.setdefault(group, case_id)
        if parts[known] != parts[case_id]:
            raise SettingsError(
                f"{known} ({parts[known]}) and {case_id} ({parts[case_id]}) {what}: "
                "what is learned from one would be tested on the other; leave one out"
            )


def learned(
    case_ids: Sequence[str], pixels: Sequence[str], seen: Collection[str]
) -> list[str]:
    """Return the cases whose pixels are among those that a network has seen."""
    known = set(seen) - {""}
    return [
        case_id for case_id, one in zip(case_ids, pixels, strict=True) if one in known
    ]


def check_contrast(case_ids: Sequence[str], crops: torch.Tensor) -> None:
    """Refuse crops (n, 70, 70) that hold NaN or one grey only.

    Raises:
        SettingsError: There are some; they are named.
    """
    flat = crops.flatten(1)
    faults = {
        "is not finite": ~torch.isfinite(flat).all(dim=1),
        "has no contrast": flat.amax(dim=1) == flat.amin(dim=1),
    }
    for fault, found in faults.items():
        if bool(found.any()):
            cases = [case_ids[row] for row in found.nonzero().flatten().tolist()]
            raise SettingsError(
                f"the marked part of {named(cases)} {fault}: check the image and the "
                "rectangle, or leave the case out"
            )
