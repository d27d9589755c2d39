"""The images that the rectangles of a study can lie on, as the readers ask for them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.attributes import reals, text
from dicom_node.dynamic import count_at, slice_spacing
from dicom_node.errors import PermanentError, UnreadableObjectError
from dicom_node.geometry import Plane
from dicom_node.images import MrImage
from dicom_node.kinds import Catalogue, ImageKind, catalogue, is_gradient_echo
from dicom_node.study import SopInstanceUid

Target: TypeAlias = tuple[SopInstanceUid, int]
"""An image and its frame, counted from 1."""

SLACK_MM: Final = 1e-3
TILT_MM: Final = 0.25
"""By how much the points of one outline may differ in their distance from a slice."""

MAX_REACH_MM: Final = 10.0
"""Half of the widest slice spacing at which a mark between two slices is taken."""

RANKS: Final[Mapping[ImageKind, int]] = {
    ImageKind.ORIGINAL: 0,
    ImageKind.SUBTRACTION: 1,
    ImageKind.PROCESSED: 1,
    ImageKind.LOCALIZER: 3,
    ImageKind.DERIVED: 3,
    ImageKind.PROJECTION: 4,
}
NOT_DYNAMIC: Final = 2


class NotPlacedError(PermanentError):
    """A mark cannot be put on an image; the message is a clause that says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the study a mark in patient coordinates lies: (n, 2) pixels of `image`.

    `by_position` says that the mark names no single image.
    """

    image: MrImage
    points: NDArray[np.float64]
    by_position: bool


@dataclass(frozen=True, slots=True)
class _Pool:
    """Images that a mark may lie on: those with geometry, and it as arrays.

    `normals` is (n, 3), `offsets` (n,) their distances from the origin, in mm.
    """

    images: tuple[MrImage, ...]
    planes: tuple[Plane, ...]
    normals: NDArray[np.float64]
    offsets: NDArray[np.float64]

    @classmethod
    def of(cls, images: Sequence[MrImage]) -> Self:
        placed = [(image, plane) for image in images if (plane := Plane.of(image))]
        if not placed:
            raise NotPlacedError(
                f"image {images[0].sop_instance_uid} states no position, orientation "
                "or pixel spacing"
            )
        normals = np.array([plane.normal for _, plane in placed])
        origins = np.array([plane.position for _, plane in placed])
        found, planes = zip(*placed, strict=True)
        return cls(found, planes, normals, (normals * origins).sum(axis=1))


@dataclass(slots=True)
class StudyImages:
    """The MR frames of a study, found by UID and by place."""

    images: tuple[MrImage, ...]
    by_uid: dict[str, list[MrImage]] = field(init=False)
    _pools: dict[str, _Pool] = field(init=False)
    _reaches: dict[tuple[object, ...], float] = field(init=False)
    _catalogue: Catalogue | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.by_uid, self._pools, self._reaches = {}, {}, {}
        for image in self.images:
            self.by_uid.setdefault(image.sop_instance_uid, []).append(image)

    def targets(self, reference: Dataset) -> tuple[Target, ...]:
        """Return the frames that a reference of class, instance and frames names.

        Raises:
            NotPlacedError: It leaves open which of several frames is meant.
        """
        uid, frames = named(reference)
        if not uid:
            raise NotPlacedError("a reference names no image")
        if not frames and len(self.by_uid.get(uid, ())) > 1:
            raise NotPlacedError(
                f"image {uid} has several frames and the reference names none of "
                "them; mark a single frame"
            )
        return tuple((uid, frame) for frame in frames or (1,))

    def place(
        self,
        points: NDArray[np.float64],
        frame_of_reference_uid: str,
        references: Iterable[Dataset] = (),
    ) -> Place:
        """Find the slice that a flat figure in the patient lies on.

        Args:
            points: (n, 3) millimetres.
            frame_of_reference_uid: What they are relative to; "" if nothing says.
            references: Images that the figure names; one of them it must lie on.

        Raises:
            NotPlacedError: No image, or none within half a slice spacing.
        """
        known = self._named(references)
        for image in known:
            if frame_of_reference_uid not in {"", image.frame_of_reference_uid}:
                raise NotPlacedError(
                    "its frame of reference is not that of the image that it names, "
                    f"{image.sop_instance_uid}"
                )
        pool = _Pool.of(known) if known else self._pool(frame_of_reference_uid)
        near = self._coplanar(points, pool)
        index = min(near, key=lambda one: self._preference(pool.images[one], near[one]))
        pixels = pool.planes[index].to_pixels(points)
        return Place(pool.images[index], pixels, not known or len(near) > 1)

    def _named(self, references: Iterable[Dataset]) -> list[MrImage]:
        wanted = [named(reference) for reference in references]
        found = [
            image
            for uid, frames in wanted
            for image in self.by_uid.get(uid, ())
            if not frames or image.frame in frames
        ]
        if wanted and not found:
            raise NotPlacedError(
                f"image {wanted[0][0]}, which it names, is not among the study's MR "
                "images; send it"
            )
        return found

    def _pool(self, uid: str) -> _Pool:
        """Return the images of one frame of reference."""
        if not uid:
            raise NotPlacedError("it names neither an image nor a frame of reference")
        if uid not in self._pools:
            found = [one for one in self.images if one.frame_of_reference_uid == uid]
            if not found:
                raise NotPlacedError(
                    f"no MR image of the study has its frame of reference {uid}; send "
                    "the images that it was drawn on"
                )
            self._pools[uid] = _Pool.of(found)
        return self._pools[uid]

    def _coplanar(self, points: NDArray[np.float64], pool: _Pool) -> dict[int, float]:
        """Return the images of a pool that points lie on, with the distance in mm."""
        some = points[:: max(1, len(points) // 4)]
        farthest = np.abs(some @ pool.normals.T - pool.offsets).max(axis=0)
        near = {}
        for index in np.flatnonzero(farthest <= MAX_REACH_MM):
            distances = pool.planes[index].distances(points)
            farthest[index] = distance = float(np.abs(distances).max())
            reach = self._reach(pool.images[index]) + SLACK_MM
            if distance <= reach and float(np.ptp(distances)) <= TILT_MM:
                near[int(index)] = distance
        if not near:
            nearest = pool.images[int(farthest.argmin())].sop_instance_uid
            raise NotPlacedError(
                f"it lies {farthest.min():.1f} mm off the nearest slice, image "
                f"{nearest}, or across it; mark a slice that was sent"
            )
        return near

    def _reach(self, image: MrImage) -> float:
        """Return half the slice spacing of an image's series, in mm."""
        key = (image.series_uid, image.orientation, image.rows, image.columns)
        if key not in self._reaches:
            spacing = slice_spacing(image, self.images)
            self._reaches[key] = min(spacing / 2, MAX_REACH_MM)
        return self._reaches[key]

    def _preference(self, image: MrImage, distance: float) -> tuple[object, ...]:
        """Order images at one place: a phase of the dynamic series comes first."""
        if self._catalogue is None:  # most studies hold no mark by position
            self._catalogue = catalogue(self.images)
        rank = RANKS[self._catalogue.kind(image)]
        if not rank and not is_gradient_echo(image):
            rank = NOT_DYNAMIC
        return (
            rank,
            -count_at(image, self._catalogue) if not rank else 0,
            round(distance, 2),
            _last_if_none(image.series_number),
            _last_if_none(image.acquisition_number),
            _last_if_none(image.temporal_position),
            image.sop_instance_uid,
            image.frame,
        )


def named(reference: Dataset) -> tuple[SopInstanceUid, tuple[int, ...]]:
    """Return the image and the frames, counted from 1, that a reference names.

    Raises:
        UnreadableObjectError: No image has such a frame: a fraction, or before 1.
    """
    uid = SopInstanceUid(text(reference, "ReferencedSOPInstanceUID"))
    frames = reals(reference, "ReferencedFrameNumber")
    if any(one < 1 or one != int(one) for one in frames):
        raise UnreadableObjectError(f"a reference to image {uid} names no real frame")
    return uid, tuple(int(one) for one in frames)


def _last_if_none(number: int | None) -> tuple[bool, int]:
    return number is None, number or 0
