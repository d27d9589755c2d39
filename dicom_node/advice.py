"""What each reason of a held, ignored or failed study means, and what to do.

One sentence each, of ours alone: unlike the detail of a study they quote nothing that
came from outside, so that a page for many eyes may show them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Advice:
    """What is so, and what a person does about it."""

    means: str
    todo: str


LOOK: Final = "See `sentinode studies show UID`."
ADVICE: Final[Mapping[str, Advice]] = {
    "no_roi": Advice(
        "No readable rectangle marks a lesion",
        "Have the radiologist mark it and store the mark, or use `sentinode roi set`.",
    ),
    "no_dce_phase": Advice(
        "The mark is not on the dynamic series, or the phase that the model needs is "
        "not there",
        "Send the dynamic series, or mark the lesion on it.",
    ),
    "roi_conflict": Advice(
        "Two marks describe one lesion differently, or one was withdrawn",
        "Have the readers agree, or decide with `sentinode roi set`.",
    ),
    "roi_outside_image": Advice(
        "The rectangle does not lie on its image", "Have the lesion marked again."
    ),
    "roi_image_missing": Advice(
        "The image that is marked has not come",
        "Send the whole study from the archive.",
    ),
    "roi_unreadable": Advice(
        "A mark came in a form that cannot be read",
        "Store it as DICOM SR, GSPS, SEG or RT, or use `sentinode roi set`.",
    ),
    "phase_ambiguous": Advice(
        "Nothing tells the order of the phases, or which image is of which",
        "Send the complete dynamic series as the scanner stored it.",
    ),
    "laterality_unknown": Advice(
        "The side of the lesion is not known or contradicts itself",
        "State it with `sentinode roi set --side L|R`.",
    ),
    "quality": Advice(
        "The quality gate does not trust the marked pixels",
        "Look at the detail; mark anew, or `sentinode studies requeue UID "
        "--accept-quality`.",
    ),
    "duplicate_differs": Advice(
        "An object came twice under one UID with other content",
        "Find out which is right, then `sentinode studies requeue UID`.",
    ),
    "patient_mismatch": Advice(
        "Objects of one study name different patients",
        "Correct it in the archive, then `sentinode studies requeue UID`.",
    ),
    "incomplete": Advice(
        "Images of the study are missing",
        "Send what is missing, or `sentinode studies requeue UID --accept-incomplete`.",
    ),
    "images_purged": Advice(
        "The images were purged after their retention",
        "Send the study from the archive again.",
    ),
    "not_breast_mr": Advice(
        "It is not breast MR", "Nothing; or route other studies elsewhere."
    ),
    "annotates_other_study": Advice(
        "It holds only marks on another study", "Nothing; the marks count for it."
    ),
    "unreadable": Advice(
        "An object of the study cannot be read",
        "Send the study again; look at the log of the listener.",
    ),
    "no_model": Advice(
        "No model is active, or its files cannot be used",
        "Run `sentinode models list` and `activate`; held studies go on with "
        "`sentinode studies requeue UID`.",
    ),
    "by_hand": Advice(
        "A person stopped it", "Go on with `sentinode studies requeue UID`."
    ),
    "excluded_by_rule": Advice(
        "A routing rule of the site excludes it",
        "Nothing; or change the rule, try it with `sentinode rules test`, and requeue.",
    ),
    "no_rule": Advice(
        "No routing rule matches it, and such studies are ignored here",
        "Nothing; or add a rule, try it with `sentinode rules test`, and requeue.",
    ),
    "document_invalid": Advice(
        "A report could not be written as the standard demands",
        f"{LOOK} Report it to the developers.",
    ),
    "analysis_error": Advice(
        "The analysis failed", f"{LOOK} Then `sentinode studies requeue UID`."
    ),
    "worker_lost": Advice(
        "A worker died several times over it",
        "Look for memory in the log of the worker, then `sentinode studies requeue "
        "UID`.",
    ),
}

UNKNOWN: Final = Advice("A reason without a text", LOOK)


def of(reason: str) -> Advice:
    """Return what a reason means and what to do."""
    return ADVICE.get(reason, UNKNOWN)
