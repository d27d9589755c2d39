"""From the instances of a study to findings and encoded reports; no database, no queue.

    read -> rectangles -> selection -> pixels -> stage I -> gate -> stage II -> SR, SC

Each side is a case of its own. What an earlier result said of an unchanged input is
kept, not computed again: only a changed input, a changed SLND result or a request to
reprocess makes a new version.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node import images, roi, selection
from dicom_node.errors import PermanentError, StudyHeldError
from dicom_node.findings import (
    CaseFinding,
    Document,
    Laterality,
    Risk,
    Selection,
    SlndResult,
    Stage,
    StageFinding,
    StageStatus,
)
from dicom_node.report import documents
from dicom_node.report.device import Device
from dicom_node.report.documents import Material
from dicom_node.study import Reason, StoredInstance, StudyUid
from worker import cam, preprocess
from worker.cascade import (
    StageModel,
    is_discordant,
    pathway,
    risk_of,
    score,
    stage_two_status,
)
from worker.case import (
    RESULTS,
    AnalyzedCase,
    PriorResult,
    SiteThreshold,
    Timings,
    case_id,
)


@dataclass(frozen=True, slots=True)
class Cascade:
    """Both stages as they are in service, and the thresholds of the site."""

    sln: StageModel
    nsln: StageModel
    site_thresholds: Mapping[Stage, SiteThreshold]


@dataclass(frozen=True, slots=True)
class StudyInput:
    """Everything that an analysis may depend on.

    `stored` has absolute paths; `priors` and `slnd` are keyed by side.
    """

    study_uid: StudyUid
    stored: Sequence[StoredInstance]
    priors: Mapping[Laterality, PriorResult]
    slnd: Mapping[Laterality, SlndResult]


def analyze(
    study: StudyInput, cascade: Cascade, device: Device
) -> tuple[AnalyzedCase, ...]:
    """Analyse every marked side of a study.

    Returns:
        A new version for each side where something changed; nothing for the rest.

    Raises:
        StudyHeldError: A person or another object is needed, or a side that was
            analysed before is not marked any more.
        StudyIgnoredError: Not a study for Sentinode.
        UnreadableObjectError: The marked slice cannot be decoded.
        InvalidDocumentError: A document is not fit to be sent.
    """
    started = time.perf_counter()
    objects = images.read_study(study.stored)
    chosen = selection.select(
        objects,
        roi.read_rois(objects.documents, objects.images),
        cascade.sln.manifest.preprocessing.phase,
    )
    select_ms = _since(started)
    _demand_every_side(study, chosen)
    digests = {stored.sop_instance_uid: stored.sha256 for stored in study.stored}
    carriers = {str(ds.SOPInstanceUID): ds for ds in objects.documents}
    cases = []
    for one in chosen:
        work = _Case(
            study=study,
            selection=one,
            input_sha256=_input_sha256(one, digests[one.sop_instance_uid]),
            carrier=carriers.get(one.roi.carrier_sop_instance_uid),
            select_ms=select_ms,
        )
        if not _is_current(work):
            cases.append(_analyze_case(work, cascade, device))
    return tuple(cases)


def _demand_every_side(study: StudyInput, chosen: Sequence[Selection]) -> None:
    """Hold a study whose result would stand although its rectangle is gone."""
    gone = set(study.priors) - {one.laterality for one in chosen}
    if gone:
        raise StudyHeldError(
            Reason.ROI_CONFLICT,
            f"side {', '.join(sorted(gone))} was analysed before and its rectangle is "
            "gone: a later object withdrew it. Mark the side again, or ignore its "
            "report at the PACS",
        )


@dataclass(frozen=True, slots=True)
class _Case:
    study: StudyInput
    selection: Selection
    input_sha256: str
    carrier: Dataset | None
    select_ms: float

    @property
    def prior(self) -> PriorResult | None:
        return self.study.priors.get(self.selection.laterality)

    @property
    def slnd(self) -> SlndResult | None:
        return self.study.slnd.get(self.selection.laterality)

    @property
    def reusable(self) -> PriorResult | None:
        """The earlier result, when its numbers still describe this input."""
        prior = self.prior
        if prior is None or prior.stale or prior.input_sha256 != self.input_sha256:
            return None
        return prior


def _is_current(case: _Case) -> bool:
    prior = case.reusable
    return prior is not None and prior.slnd == case.slnd


def _analyze_case(case: _Case, cascade: Cascade, device: Device) -> AnalyzedCase:
    started = time.perf_counter()
    header = images.read_header(case.selection.path)
    pixels = images.read_pixels(case.selection.path, case.selection.frame)
    decode_ms = _since(started)

    begun = time.perf_counter()
    sln, nsln = _run_stages(case, pixels, cascade)
    inference_ms = _since(begun)

    begun = time.perf_counter()
    finding = _finding(case, sln, nsln)
    encoded = _documents(case, finding, (header, pixels), device)
    report_ms = _since(begun)
    return AnalyzedCase(
        case_id=case_id(case.study.study_uid, case.selection.laterality),
        finding=finding,
        documents=encoded,
        input_sop_instance_uids=(case.selection.sop_instance_uid,),
        input_sha256=case.input_sha256,
        supersedes=case.prior.result_id if case.prior else None,
        timings=Timings(
            select_ms=case.select_ms,
            decode_ms=decode_ms,
            inference_ms=inference_ms,
            report_ms=report_ms,
            total_ms=case.select_ms + _since(started),
        ),
    )


def _run_stages(
    case: _Case, pixels: NDArray[np.float32], cascade: Cascade
) -> tuple[StageFinding, StageFinding]:
    """Run what has to run; an earlier finding of the same input stays as it was."""
    prior = case.reusable
    sln = prior.sln if prior else _run_stage(case, pixels, cascade.sln, cascade)
    status = stage_two_status(_risk(sln), case.slnd.result if case.slnd else None)
    if status is not StageStatus.DONE:
        return sln, StageFinding(Stage.NSLN, status)
    if prior and prior.nsln.status is StageStatus.DONE:
        return sln, prior.nsln
    return sln, _run_stage(case, pixels, cascade.nsln, cascade)


def _run_stage(
    case: _Case, pixels: NDArray[np.float32], model: StageModel, cascade: Cascade
) -> StageFinding:
    """Score the crop (rows, columns) -> (3, 64, 64) and place its map on the slice."""
    manifest = model.manifest
    box = case.selection.roi.box
    x = preprocess.to_input(pixels, box, manifest.preprocessing)
    scored = score(model, x)
    rows, columns = pixels.shape
    site = cascade.site_thresholds.get(manifest.stage)
    threshold = site.value if site else manifest.operating_threshold.value
    at_threshold = manifest.performance.at(threshold)
    return StageFinding(
        stage=manifest.stage,
        status=StageStatus.DONE,
        probability=scored.probability,
        threshold=threshold,
        threshold_source=(
            f"site: {site.reason}" if site else manifest.operating_threshold.how
        ),
        risk=risk_of(scored.probability, threshold),
        sensitivity=at_threshold.sensitivity,
        specificity=at_threshold.specificity,
        dataset=manifest.performance.dataset,
        model=manifest.reference,
        weights_sha256=manifest.weights_sha256,
        preprocessing_sha256=manifest.preprocessing_sha256,
        device=_device_name(model.device),
        heat=cam.place(scored.cam, box, (rows, columns), manifest.preprocessing),
        heat_range=manifest.heat_range,
    )


def _risk(stage: StageFinding) -> Risk:
    if stage.risk is None:
        raise PermanentError(f"stage {stage.stage} is recorded without a risk group")
    return stage.risk


def _finding(case: _Case, sln: StageFinding, nsln: StageFinding) -> CaseFinding:
    slnd = case.slnd.result if case.slnd else None
    risk = _risk(sln)
    version = case.prior.version + 1 if case.prior else 1
    identity = {
        "case": case_id(case.study.study_uid, case.selection.laterality),
        "version": version,
        "input": case.input_sha256,
        "weights": [sln.weights_sha256, nsln.weights_sha256],
        "slnd": slnd,
    }
    return CaseFinding(
        result_id=str(uuid.uuid5(RESULTS, json.dumps(identity, sort_keys=True))),
        version=version,
        selection=case.selection,
        pathway=pathway(risk, slnd, nsln.risk),
        sln=sln,
        nsln=nsln,
        slnd=case.slnd,
        discordant=is_discordant(risk, slnd),
        created_at=datetime.now(UTC),
    )


def _documents(
    case: _Case,
    finding: CaseFinding,
    source: tuple[Dataset, NDArray[np.float32]],
    device: Device,
) -> tuple[Document, ...]:
    """Encode and check what a PACS gets of this version."""
    header, pixels = source
    path = case.prior.report if case.prior else None
    previous = images.read_header(path) if path else None
    material = Material(header, pixels, case.carrier, previous)
    return documents.write(finding, material, device)


def _input_sha256(one: Selection, dataset_sha256: str) -> str:
    """Digest what the networks see: the analysed bytes, the frame, the rectangle."""
    seen = {"dataset": dataset_sha256, "frame": one.frame, "box": one.roi.box}
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
