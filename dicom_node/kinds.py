r"""What an MR image is to the choice of a slice: original, subtraction, map ...

Vendors do not agree on ImageType, so words are read wherever vendors write them, and
the first value, ORIGINAL or DERIVED, decides nothing alone:

* Siemens stores subtractions and projections as ORIGINAL\PRIMARY\M\...\SUB;
* Philips and GE call Dixon water images, of which a dynamic series may be made,
  DERIVED\PRIMARY, and GE calls its in-line subtractions just that as well;
* compression and anonymisation may turn ORIGINAL into DERIVED and PRIMARY into
  SECONDARY (PS3.3 C.7.6.1.1.2).

So a derived image that does not say how it was made is judged by what lies beside it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeAlias

from dicom_node.images import MrImage
from dicom_node.planes import along_normal, is_parallel, same_grid
from dicom_node.study import SopInstanceUid

Key: TypeAlias = tuple[SopInstanceUid, int]
"""Names one frame of a study."""

PROJECTION_WORDS: Final = frozenset(
    {
        *(
            "CURVED",
            "MAXIP",
            "MAXIMUM",
            "MINIMUM",
            "MINIP",
            "MIP",
            "MIPS",
            "MPR",
            "PJN",
        ),
        *("PROJECTION", "RADIAL", "REFORMAT", "REFORMATTED", "RESAMPLED", "THICK"),
    }
)
SUBTRACTION_WORDS: Final = frozenset(
    {"SUB", "SUBS", "SUBT", "SUBTRACT", "SUBTRACTED", "SUBTRACTION"}
)
DERIVED_WORDS: Final = frozenset(
    {
        *("ADC", "ADDITION", "CBF", "CBV", "DIVISION", "EADC", "FA", "IAUC", "KEP"),
        *("KTRANS", "MASKED", "MTT", "MULTIPLICATION", "PEI", "QUANTITY", "SER"),
        *("TRACEW", "TTP", "WI", "WO"),
    }
)
LOCALIZER_WORDS: Final = frozenset({"LOC", "LOCATOR", "PILOT", "SCOUT", "SURVEY"})
RECONSTRUCTED_WORDS: Final = frozenset({"DIXON", "IDEAL", "LAVAFLEX", "W", "WATER"})
"""The scanner's own reconstruction calls itself derived, and is no less an image."""

FAT: Final = "FAT"
"""Value of ImageType for the fat of a Dixon scan, in which nothing enhances."""

DESCRIPTION_WORDS: Final = frozenset(
    {
        *(
            "ADC",
            "IAUC",
            "KTRANS",
            "MAXIP",
            "MINIP",
            "MIP",
            "MIPS",
            "MPR",
            "PEI",
            "PJN",
        ),
        *("REFORMAT", "REFORMATTED", "SUB", "SUBS", "SUBT", "TRACEW", "TTP"),
        *LOCALIZER_WORDS,
    }
)
"""Words that say the same in a description; "WO" there means "without"."""

PHRASES: Final = (
    (re.compile(r"SUBTRA[CK]"), "SUB"),
    (re.compile(r"MAX(IMUM)?[ _-]?(INTENSITY[ _-]?PROJ|IP\b)"), "MIP"),
    (re.compile(r"WASH[ _-]?(IN|OUT)"), "WI"),
    (re.compile(r"LO[CK]ALI[SZ]|SCOUT"), "LOC"),
)
REENCODED: Final = re.compile(r"COMPRESS|JPEG|LOSS(LESS|Y)|IRREVERS|IDENTIF|ANONYM")
"""How a derivation says that an image shows what it showed before."""

SPIN_ECHO_TR_MS: Final = 500.0
SPIN_ECHO_TE_MS: Final = 20.0
"""No T1-weighted gradient echo of a dynamic series is as slow as that."""

OTHER_CONTRAST: Final = re.compile(
    r"(?<![A-Z0-9])(T2|STIR|TIRM|FLAIR|TSE|FSE|DWI|EPI|EP2D)(?![A-Z])|DIFF"
)


class ImageKind(StrEnum):
    """What an image is to the choice of a slice."""

    ORIGINAL = "an original image"
    SUBTRACTION = "a subtraction"
    PROCESSED = "a derived image that does not say how it was made"
    PROJECTION = "a projection or reformat"
    DERIVED = "a derived map"
    LOCALIZER = "a localizer"


OF_ORIGINALS: Final = frozenset({ImageKind.SUBTRACTION, ImageKind.PROCESSED})
"""Kinds whose pixels are those of originals on the same grid, so a mark can move."""

UNMARKABLE: Final = frozenset(
    {ImageKind.PROJECTION, ImageKind.DERIVED, ImageKind.LOCALIZER}
)
"""Kinds on which a place is no place in an original."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The images of a study, each with its kind; `originals` may be phases."""

    images: tuple[MrImage, ...]
    index: Mapping[Key, MrImage]
    originals: tuple[MrImage, ...]
    _kinds: Mapping[Key, ImageKind]

    def kind(self, image: MrImage) -> ImageKind:
        """Return what an image of this study is."""
        return self._kinds[key_of(image)]


def key_of(image: MrImage) -> Key:
    """Return what names a frame."""
    return (image.sop_instance_uid, image.frame)


def catalogue(images: Sequence[MrImage]) -> Catalogue:
    """Say what each image of a study is, from its header and from those beside it."""
    series: dict[tuple[object, ...], list[MrImage]] = defaultdict(list)
    for image in images:
        said = (image.image_type, image.description, image.derivation)
        series[(image.series_uid, image.rows, image.columns, said)].append(image)
    groups = list(series.values())
    kinds = {
        key_of(one): found
        for group in groups
        for found in [_kind_of_group(group, groups)]
        for one in group
    }
    originals = tuple(
        one
        for one in images
        if kinds[key_of(one)] is ImageKind.ORIGINAL and is_gradient_echo(one)
    )
    return Catalogue(
        tuple(images), {key_of(one): one for one in images}, originals, kinds
    )


def kind(image: MrImage) -> ImageKind:
    """Say what an image is by its own words alone: ImageType and descriptions."""
    return _kind(image.image_type, image.description, image.derivation)


@lru_cache(maxsize=1024)
def _kind(image_type: tuple[str, ...], description: str, derivation: str) -> ImageKind:
    described = _words([description, derivation]) & DESCRIPTION_WORDS
    said = (
        _words(image_type)
        | described
        | _phrases([*image_type, description, derivation])
    )
    for words, found in (
        (PROJECTION_WORDS, ImageKind.PROJECTION),
        (SUBTRACTION_WORDS, ImageKind.SUBTRACTION),
        (DERIVED_WORDS, ImageKind.DERIVED),
        (LOCALIZER_WORDS, ImageKind.LOCALIZER),
    ):
        if said & words:
            return found
    if FAT in image_type:
        return ImageKind.DERIVED
    derived = image_type[:1] == ("DERIVED",)
    if (
        not derived
        or said & RECONSTRUCTED_WORDS
        or REENCODED.search(derivation.upper())
    ):
        return ImageKind.ORIGINAL
    return ImageKind.PROCESSED


def _words(texts: Iterable[str]) -> set[str]:
    return set(re.findall(r"[A-Z0-9]+", " ".join(texts).upper()))


def _phrases(texts: Iterable[str]) -> set[str]:
    upper = " ".join(texts).upper()
    return {word for pattern, word in PHRASES if pattern.search(upper)}


def _kind_of_group(
    group: Sequence[MrImage], groups: Sequence[Sequence[MrImage]]
) -> ImageKind:
    """Decide for images of one series that say the same of themselves.

    Slices in several planes are a localizer, whatever its name. A derived image that
    does not say how it was made counts as processed when originals of its protocol
    lie on its grid; but one slice alone could as well be a projection. Without
    originals it is what the PACS holds of the scan, unless a workstation
    (SECONDARY) made a single slice.
    """
    found = kind(group[0])
    if found is ImageKind.ORIGINAL and not all(
        is_parallel(group[0], one) for one in group[1:]
    ):
        return ImageKind.LOCALIZER
    if found is not ImageKind.PROCESSED:
        return found
    several = len({round(along_normal(group[0], one), 2) for one in group}) > 1
    beside = any(
        kind(other[0]) is ImageKind.ORIGINAL
        and same_grid(group[0], other[0])
        and same_timing(group[0], other[0])
        for other in groups
    )
    if beside:
        return ImageKind.PROCESSED if several else ImageKind.DERIVED
    secondary = group[0].image_type[1:2] == ("SECONDARY",)
    return ImageKind.DERIVED if secondary and not several else ImageKind.ORIGINAL


SAME_PARAMETER: Final = 0.02
"""Relative difference up to which two timing parameters are one protocol."""


def same_timing(one: MrImage, other: MrImage) -> bool:
    """Say whether two images could be of one protocol, by TR, TE and flip angle."""
    return all(
        a is None or b is None or abs(a - b) <= SAME_PARAMETER * abs(a)
        for a, b in (
            (one.repetition_time, other.repetition_time),
            (one.echo_time, other.echo_time),
            (one.flip_angle, other.flip_angle),
        )
    )


def is_gradient_echo(image: MrImage) -> bool:
    """Say whether an image may be of a dynamic series, which is a gradient echo.

    An image that names no sequence, or only that it is a research one (GE), may,
    unless it is as slow as a spin echo or its description names another contrast.
    """
    said = set(image.scanning_sequence) - {"RM"}
    if said:
        return "GR" in said and "EP" not in said
    slow = (image.repetition_time or 0.0) >= SPIN_ECHO_TR_MS
    late = (image.echo_time or 0.0) >= SPIN_ECHO_TE_MS
    other = OTHER_CONTRAST.search(image.description.upper())
    return not (slow or late or other)
