"""Would a rectangle that a person gives be analysed, and on which slice?"""

import math
from contextlib import suppress
from dataclasses import replace
from typing import Final

import click
from sqlalchemy.orm import Session

from dicom_node import images, ledger, selection
from dicom_node.completion import IMAGES
from dicom_node.errors import (
    SettingsError,
    StateError,
    StudyHeldError,
    StudyIgnoredError,
)
from dicom_node.findings import Roi, Selection
from dicom_node.images import MrImage, StudyObjects
from dicom_node.roi.reading import RoiReading
from dicom_node.study import Reason, StudyUid
from worker import models, outcomes
from worker.cli.context import Site
from worker.rules import site_rules

Box = tuple[float, float, float, float]

MAX_SIDE_MM: Final = 150.0
"""No lesion is larger; a mistyped box soon is."""


def check(box: Box) -> None:
    """Refuse what is no rectangle on any image."""
    x0, y0, x1, y1 = box
    if not all(math.isfinite(edge) for edge in box):
        raise click.UsageError("--box takes four numbers")
    if x0 >= x1 or y0 >= y1:
        raise click.UsageError("--box is X0 Y0 X1 Y1, with X0 < X1 and Y0 < Y1")
    if min(x0, y0) < 0:
        raise click.UsageError("--box begins outside the image: 0 is its outer edge")


def read_images(site: Site, session: Session, uid: StudyUid) -> StudyObjects:
    """Read the headers of the MR images of a study."""
    spool = site.spool
    stored = [
        replace(one, path=spool.fetch(one.path, one.sha256))
        for one in ledger.instances(session, uid)
        if one.sop_class_uid in IMAGES
    ]
    return images.read_study(stored)


def phase_in_service(site: Site, session: Session) -> str:
    """Return the phase of the model in service; without a model the usual one."""
    with suppress(SettingsError):
        return models.phase_in_service(
            site.settings.models, outcomes.activations(session)
        )
    return selection.DEFAULT_PHASE


def choose(site: Site, objects: StudyObjects, roi: Roi, phase: str) -> Selection:
    """Choose with this rectangle alone, as an analysis would.

    Raises:
        UsageError: The box does not lie inside the image.
        StateError: It could not be analysed there; the message says why.
    """
    marked = [
        one
        for one in objects.images
        if (one.sop_instance_uid, one.frame) == (roi.sop_instance_uid, roi.frame)
    ]
    if not marked:
        raise StateError(
            f"image {roi.sop_instance_uid} has no frame {roi.frame}, or cannot be read"
        )
    _check_on(marked[0], roi)
    try:
        (chosen,) = selection.select(
            objects,
            RoiReading(rois=(roi,)),
            phase,
            site_rules(site.settings),
            frozenset({Reason.INCOMPLETE}),  # a person sees what is there
        )
    except (StudyHeldError, StudyIgnoredError) as error:
        raise StateError(
            f"this rectangle could not be analysed, so it was not set: {error.detail}"
        ) from error
    return chosen


def _check_on(image: MrImage, roi: Roi) -> None:
    """Refuse what does not lie inside an image, or is larger than any lesion."""
    if roi.x1 > image.columns or roi.y1 > image.rows:
        raise click.UsageError(
            f"--box reaches beyond the image, which is {image.columns} x {image.rows} "
            "pixels"
        )
    between_rows, between_columns = image.spacing or (0.0, 0.0)
    longest = max((roi.x1 - roi.x0) * between_columns, (roi.y1 - roi.y0) * between_rows)
    if longest > MAX_SIDE_MM:
        raise click.UsageError(
            f"--box has a side of {longest:.0f} mm, more than {MAX_SIDE_MM:.0f}: "
            "check its numbers, they are pixels"
        )
