"""From the instances of a study to findings and encoded reports; no database, no queue.

    read -> rectangles -> selection -> pixels -> quality -> stage I -> gate -> stage II
         -> SR, SC

Each side is a case of its own. What an earlier result said of an unchanged input is
kept, not computed again: only a changed input, a changed SLND result or a request to
reprocess makes a new version.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node import dynamic, images, scanner, selection
from dicom_node.attributes import study_day
from dicom_node.errors import PermanentError, StudyHeldError
from dicom_node.findings import (
    CaseFinding,
    Document,
    Laterality,
    Risk,
    Roi,
    Selection,
    SlndResult,
    Stage,
    StageFinding,
    StageStatus,
    StageTwo,
)
from dicom_node.images import MrImage, StudyObjects
from dicom_node.kinds import Catalogue, catalogue
from dicom_node.report import documents
from dicom_node.report.device import Device
from dicom_node.report.documents import Material
from dicom_node.roi import RoiReading
from dicom_node.selection import DEFAULT_RULES, Rules
from dicom_node.study import Reason, SopInstanceUid, StoredInstance, StudyUid
from worker import cam, computation, crops, gate, preprocess, recall
from worker.cascade import (
    StageModel,
    is_discordant,
    pathway,
    risk_of,
    stage_two_status,
    standing,
)
from worker.case import (
    RESULTS,
    AnalyzedCase,
    KeptInput,
    PriorResult,
    SiteThreshold,
    Timings,
    case_id,
    input_sha256,
)
from worker.marked import read_marked
from worker.quality import Fault
from worker.together import Request, Steps, alone, timed


@dataclass(frozen=True, slots=True)
class Cascade:
    """Both stages as they are in service, and the thresholds of the site."""

    sln: StageModel
    nsln: StageModel
    site_thresholds: Mapping[Stage, SiteThreshold]


@dataclass(frozen=True, slots=True)
class StudyInput:
    """Everything that an analysis may depend on.

    `stored` has absolute paths, and includes documents of other studies that mark
    this one; `priors` and `slnd` are keyed by side. `rules` are the site's on the
    choice of a slice, `stage_two` its policy on the second network; `manual` are the
    rectangles that a person set by hand. `waived` is what a person accepted of the
    study as it stands. `purged` has the digests of images whose files are gone, `late`
    names what came after that.
    """

    study_uid: StudyUid
    stored: Sequence[StoredInstance]
    priors: Mapping[Laterality, PriorResult]
    slnd: Mapping[Laterality, SlndResult]
    rules: Rules = DEFAULT_RULES
    manual: tuple[Roi, ...] = ()
    waived: frozenset[Reason] = frozenset()
    purged: Mapping[SopInstanceUid, str] = field(default_factory=dict)
    late: frozenset[SopInstanceUid] = frozenset()
    stage_two: StageTwo = StageTwo.ON_SLND


def analyze(
    study: StudyInput, cascade: Cascade, device: Device
) -> tuple[AnalyzedCase, ...]:
    """Analyse every marked side of a study, each crop in a pass of its own.

    Returns:
        A new version for each side where something changed; nothing for the rest.

    Raises:
        StudyHeldError: A person or another object is needed, or a side that was
            analysed before is not marked any more.
        StudyIgnoredError: Not a study for Sentinode.
        UnreadableObjectError: The marked slice cannot be decoded.
        InvalidDocumentError: A document is not fit to be sent.
    """
    return alone(steps(study, cascade, device))


def steps(
    study: StudyInput, cascade: Cascade, device: Device
) -> Steps[tuple[AnalyzedCase, ...]]:
    """Analyse a study as `analyze` does; whoever runs it scores what it asks for."""
    cases, faulty = [], []
    for work in _works(study, cascade):
        if _is_current(work):
            continue
        try:
            cases.append((yield from _analyze_case(work, cascade, device)))
        except StudyHeldError as held:
            if held.reason is not Reason.QUALITY:
                raise
            faulty.append(held.detail)
    if faulty:  # a person sees what is wrong with every side, then decides
        raise StudyHeldError(Reason.QUALITY, " ".join((*faulty, gate.HOW_TO_OVERRULE)))
    return tuple(cases)


def _works(study: StudyInput, cascade: Cascade) -> list["_Case"]:
    """Choose a slice for each side; what else was read of the study is let go."""
    started = time.perf_counter()
    objects, reading = read_marked(study.stored, study.manual, study.rules)
    chosen = _choose(
        study, (objects, reading), cascade.sln.manifest.preprocessing.phase
    )
    select_ms = _since(started)
    digests = {one.sop_instance_uid: one.sha256 for one in study.stored}
    digests |= study.purged
    carriers = {str(ds.SOPInstanceUID): ds for ds in objects.documents}
    known = catalogue(objects.images)
    return [
        _Case(
            study=study,
            selection=one,
            image=_image_of(one, known),
            before=_before(one, known),
            slice_sha256=digests[one.sop_instance_uid],
            carrier=carriers.get(one.roi.carrier_sop_instance_uid or ""),
            select_ms=select_ms,
        )
        for one in chosen
    ]


def _choose(
    study: StudyInput, marked: tuple[StudyObjects, RoiReading], phase: str
) -> tuple[Selection, ...]:
    objects, reading = marked
    if study.purged:
        late = [ds for ds in objects.documents if ds.SOPInstanceUID in study.late]
        return recall.selections(study.priors, study.slnd, late, phase)
    chosen = selection.select(objects, reading, phase, study.rules, study.waived)
    _demand_every_side(study, chosen)
    return chosen


def _image_of(chosen: Selection, known: Catalogue) -> MrImage:
    """Return the analysed image; of a purged study the slice that was kept."""
    image = known.index.get((chosen.sop_instance_uid, chosen.frame))
    return image or images.read_frame(chosen.path, chosen.frame)


def _before(chosen: Selection, known: Catalogue) -> MrImage | None:
    image = known.index.get((chosen.sop_instance_uid, chosen.frame))
    return None if image is None else dynamic.before_contrast(image, known)


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
    image: MrImage
    before: MrImage | None
    slice_sha256: str
    carrier: Dataset | None
    select_ms: float

    @property
    def sides_mm(self) -> tuple[float, float]:
        return gate.sides_mm(self.selection, self.image)

    @property
    def input_sha256(self) -> str:
        one = self.selection
        return input_sha256(self.slice_sha256, one.frame, one.roi.box)

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
    return prior is not None and not prior.rewrite and prior.slnd == case.slnd


def _analyze_case(case: _Case, cascade: Cascade, device: Device) -> Steps[AnalyzedCase]:
    begun = time.perf_counter()
    header = images.read_header(case.selection.path)
    pixels = images.read_pixels(case.selection.path, case.selection.frame, header)
    manifest = cascade.sln.manifest
    looked = gate.look(case.selection, case.image, case.before, pixels, manifest)
    if gate.is_constant(looked):
        _settled(case, looked, ())  # held at once: there may be nothing to score
    decode_ms = _since(begun)

    stages = _run_stages(case, pixels, cascade)
    (sln, nsln, strange), inference_ms = yield from timed(stages)

    begun = time.perf_counter()
    case = _settled(case, looked, strange)
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
            total_ms=case.select_ms + decode_ms + inference_ms + report_ms,
        ),
        kept=_kept(case, pixels),
        studied_on=study_day(header),
        scanner=scanner.name(header),
    )


def _settled(
    case: _Case, looked: tuple[Fault, ...], strange: tuple[Fault, ...]
) -> _Case:
    """Hold the side for its faults, or note in its reasons that they are let pass.

    What a look at an unchanged input finds was settled when its numbers were made.
    """
    fresh = strange if case.reusable else (*looked, *strange)
    standing = looked if case.reusable else ()
    accepted = Reason.QUALITY in case.study.waived
    selection = gate.settle(case.selection, fresh, standing, accepted=accepted)
    return replace(case, selection=selection)


def _run_stages(
    case: _Case, pixels: NDArray[np.float32], cascade: Cascade
) -> Steps[tuple[StageFinding, StageFinding, tuple[Fault, ...]]]:
    """Run what has to run; an earlier finding of the same input stays as it was."""
    prior = case.reusable
    faults: tuple[Fault, ...] = ()
    if prior:
        sln = prior.sln
    else:
        sln, faults = yield from _run_stage(case, pixels, cascade.sln, cascade)
    slnd = case.slnd.result if case.slnd else None
    status = stage_two_status(_risk(sln), slnd, case.study.stage_two)
    if status not in {StageStatus.DONE, StageStatus.CONDITIONAL}:
        return sln, StageFinding(Stage.NSLN, status), faults
    if prior and prior.nsln.probability is not None:
        return sln, standing(prior.nsln, status), faults
    nsln, more = yield from _run_stage(case, pixels, cascade.nsln, cascade)
    return sln, standing(nsln, status), (*faults, *more)


def _run_stage(
    case: _Case, pixels: NDArray[np.float32], model: StageModel, cascade: Cascade
) -> Steps[tuple[StageFinding, tuple[Fault, ...]]]:
    """Score the crop (rows, columns) -> (3, 64, 64) and place its map on the slice."""
    manifest = model.manifest
    box = case.selection.roi.box
    x = preprocess.to_input(pixels, box, manifest.preprocessing)
    scored = yield Request(model, x)
    rows, columns = pixels.shape
    site = cascade.site_thresholds.get(manifest.stage)
    threshold = site.value if site else manifest.operating_threshold.value
    at_threshold = manifest.performance.at(threshold)
    finding = StageFinding(
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
        **computation.describe(x, scored.batch),
        heat=cam.place(scored.cam, box, (rows, columns), manifest.preprocessing),
        heat_range=manifest.heat_range,
    )
    return finding, gate.strangeness(model, scored, case.sides_mm)


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


def _kept(case: _Case, pixels: NDArray[np.float32]) -> KeptInput:
    crop = crops.encode(crops.cut(pixels, case.selection.roi.box))
    return KeptInput(
        crop=crop,
        crop_sha256=hashlib.sha256(crop).hexdigest(),
        slice_path=case.selection.path,
        slice_sha256=case.slice_sha256,
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
