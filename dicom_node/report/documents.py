"""All documents of one version of a case, each through the gate: the only way out."""

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.attributes import PARSE_ERRORS
from dicom_node.errors import InvalidDocumentError
from dicom_node.findings import CaseFinding, Document, Stage
from dicom_node.report import gate, gsps, pm, sc, sr
from dicom_node.report.device import Device, Output
from dicom_node.report.evidence import as_evidence
from dicom_node.report.uids import case_uid, instance_uid
from dicom_node.silence import silence

ADVICE: Final = (
    "Nothing was sent. This is a fault of Sentinode or of the image's header: look at "
    "the header, then `sentinode studies requeue`"
)


@dataclass(frozen=True, slots=True)
class Material:
    """What documents are made of, beside the findings.

    `header` is that of the analysed image and `pixels` its frame, (rows, columns)
    after the modality LUT; `carrier` carried the rectangle; `previous` is the report
    that the new one supersedes.
    """

    header: Dataset
    pixels: NDArray[np.float32]
    carrier: Dataset | None
    previous: Dataset | None


def write(
    case: CaseFinding, material: Material, device: Device
) -> tuple[Document, ...]:
    """Write and check a report, and what else the device is set to write.

    Returns:
        The SR first. Maps of stages that did not run in this version, and a parametric
        map of an image without a place in the patient, are left out.

    Raises:
        InvalidDocumentError: A document cannot be written, or has a fault; then none
            may be sent.
    """
    return tuple(
        _checked(build, stage, case, material, device)
        for build, stage in _wanted(case, material, device)
    )


Build = Callable[[], Document]


def _wanted(
    case: CaseFinding, material: Material, device: Device
) -> Iterator[tuple[Build, Stage | None]]:
    header, pixels = material.header, material.pixels
    yield (
        partial(sr.build_sr, case, header, material.carrier, material.previous, device),
        None,
    )
    ran = [one.stage for one in (case.sln, case.nsln) if one.heat is not None]
    if Output.SC in device.outputs:
        for stage in ran:
            yield partial(sc.build_sc, case, stage, header, pixels, device), stage
    if Output.GSPS in device.outputs:
        yield partial(gsps.build_gsps, case, header, pixels, device), None
    if Output.PM in device.outputs and pm.can_be_mapped(header, case.selection.frame):
        for stage in ran:
            yield partial(pm.build_pm, case, stage, header, device), stage


def _checked(
    build: Build,
    stage: Stage | None,
    case: CaseFinding,
    material: Material,
    device: Device,
) -> Document:
    try:
        document = build()
    except PARSE_ERRORS as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
        message = f"a document cannot be written ({fault}). {ADVICE}"
        raise InvalidDocumentError(message) from None  # its text may quote a patient
    demand(document, stage, case, material.header, device)
    return document


def demand(
    document: Document,
    stage: Stage | None,
    case: CaseFinding,
    header: Dataset,
    device: Device,
) -> None:
    """Let a document pass the gate.

    Raises:
        InvalidDocumentError: It has a fault; the message names them all.
    """
    with silence():
        evidence = as_evidence(header, case.selection.frame)
        parts = [document.kind, *([stage] if stage else [])]
        origin = gate.Origin(
            evidence=evidence,
            series_uid=case_uid(case, evidence, device.uid, document.kind),
            instance_uid=instance_uid(case, evidence, device.uid, *parts),
        )
    if found := gate.faults(document, origin):
        raise InvalidDocumentError(
            f"the {document.kind} is not fit to be sent: {'; '.join(found)}. {ADVICE}"
        )
