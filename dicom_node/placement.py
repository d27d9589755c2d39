"""From the marked slice to the analysed one: the same position on the wanted phase."""

from dataclasses import dataclass
from typing import Final

from dicom_node.candidates import name_of
from dicom_node.dynamic import Dynamic
from dicom_node.errors import StudyHeldError
from dicom_node.images import MrImage
from dicom_node.kinds import OF_ORIGINALS, Catalogue, ImageKind
from dicom_node.phases import demand_beginning, phase_name
from dicom_node.study import Reason

AS_MARKED: Final = "as marked"
"""The phase when the study holds no other than the one that carries the mark."""


@dataclass(frozen=True, slots=True)
class Target:
    """The phase that is wanted, by its place, and whether it must be there."""

    study: Catalogue
    wanted: int
    required: bool = False


def demand_no_gap(found: Dynamic, accepted: frozenset[Reason]) -> tuple[str, ...]:
    """Return what a person accepted about gaps.

    Raises:
        StudyHeldError: `incomplete`, with a sentence for each gap.
    """
    if not found.gaps:
        return ()
    if Reason.INCOMPLETE in accepted:
        return ("A person accepted that the dynamic series has gaps.", *found.gaps)
    raise StudyHeldError(
        Reason.INCOMPLETE,
        f"The dynamic series has gaps. {' '.join(found.gaps)} Send what is missing, or "
        "take the study as it is: `sentinode studies requeue UID --accept-incomplete`.",
    )


def move(
    marked: MrImage, found: Dynamic, target: Target
) -> tuple[MrImage, str, tuple[str, ...]]:
    """Return the image of the wanted phase, the phase's name, and sentences on it.

    Raises:
        StudyHeldError: The wanted phase is not there, or cannot be told.
    """
    if len(found.phases) == 1:
        if target.required:
            raise StudyHeldError(
                Reason.NO_DCE_PHASE,
                f"No other phase than {name_of(marked)} is there, and this site "
                f"demands {phase_name(target.wanted)}: send the dynamic series.",
            )
        said = f"No other phase than {name_of(marked)} is there; used as marked."
        return marked, AS_MARKED, (said, *_unproven(marked, target.study))
    analysed = _pick(found, target.wanted)
    phase = phase_name(target.wanted)
    where = f"It was marked on {_where(marked, found, target.study)}"
    if analysed == marked:
        said = f"{where}, which is {phase}."
    else:
        said = (
            f"{where}; {phase} at the same position, {name_of(analysed)}, is analysed, "
            "since the model was trained on that phase."
        )
    return analysed, phase, (said, *_order(found), *_unproven(analysed, target.study))


def _where(marked: MrImage, found: Dynamic, study: Catalogue) -> str:
    if marked in found.phases:
        place = found.phases.index(marked) + 1
        return f"phase {place} of {len(found.phases)} ({name_of(marked)})"
    if study.kind(marked) in OF_ORIGINALS:
        return f"{study.kind(marked)} ({name_of(marked)})"
    return f"a copy of one of {len(found.phases)} phases ({name_of(marked)})"


def _order(found: Dynamic) -> tuple[str, ...]:
    order = f"The {found.told_by} tells the order of the phases."
    if not found.copies:
        return (order,)
    copies = ", ".join(name_of(one) for one in found.copies)
    return (order, f"Repeats of a time point do not count as phases: {copies}.")


def _unproven(marked: MrImage, study: Catalogue) -> tuple[str, ...]:
    """Say on what ground an image that calls itself derived is taken."""
    is_original = study.kind(marked) is ImageKind.ORIGINAL
    if not is_original or marked.image_type[:1] != ("DERIVED",):
        return ()
    said = (
        "Its header says DERIVED, but names no subtraction, projection or map, and no "
        "original lies beside it."
    )
    return (said,)


def _pick(found: Dynamic, wanted: int) -> MrImage:
    count = len(found.phases)
    if not found.present:
        raise StudyHeldError(Reason.PHASE_AMBIGUOUS, " ".join(found.gaps))
    demand_beginning(found.present)
    if wanted >= count:
        raise StudyHeldError(
            Reason.NO_DCE_PHASE,
            f"The model needs {phase_name(wanted)}; the study holds {count} "
            "phases at the marked position: send the others.",
        )
    analysed = found.phases[wanted]
    if analysed is None:
        raise StudyHeldError(
            Reason.INCOMPLETE,
            f"The model needs {phase_name(wanted)}, which lacks the marked slice. "
            f"{' '.join(found.gaps)} Send what is missing.",
        )
    return analysed
