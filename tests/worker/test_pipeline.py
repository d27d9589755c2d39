"""From files to findings and documents, with no database in reach."""

import copy
import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.errors import PermanentError, StudyHeldError
from dicom_node.findings import (
    Laterality,
    Pathway,
    Risk,
    Slnd,
    SlndResult,
    Stage,
    StageStatus,
    StageTwo,
)
from dicom_node.report.device import Device
from dicom_node.report.reading import read_report
from dicom_node.selection import Rules
from dicom_node.study import Reason, SopInstanceUid, StoredInstance, StudyUid
from tests import roi_objects
from worker import pipeline
from worker.case import PriorResult, SiteThreshold
from worker.pipeline import Cascade, StudyInput

DEVICE = Device(uid="1.2.826.0.1.3680043.8.498.77", serial="1", software_version="0")
POSITIVE = SlndResult(Slnd.POSITIVE, None, None, "test", datetime.now(UTC), slnd_id=1)


@pytest.fixture
def study(tmp_path: Path, slices, mark) -> StudyInput:
    stored = []
    for number, dataset in enumerate((*slices, mark)):
        path = tmp_path / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        stored.append(
            StoredInstance(
                SopInstanceUid(dataset.SOPInstanceUID),
                dataset.SeriesInstanceUID,
                dataset.SOPClassUID,
                path,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
        )
    return StudyInput(StudyUid(slices[0].StudyInstanceUID), stored, {}, {})


def at_threshold(cascade: Cascade, value: float) -> Cascade:
    return replace(cascade, site_thresholds={Stage.SLN: SiteThreshold(value, "test")})


def after(case, tmp_path: Path, **changes: object) -> dict[Laterality, PriorResult]:
    """What the database would say of a case that was analysed before."""
    finding = case.finding
    report = tmp_path / "previous.dcm"
    report.write_bytes(case.documents[0].content)
    prior = PriorResult(
        result_id=finding.result_id,
        version=finding.version,
        input_sha256=case.input_sha256,
        stale=False,
        sln=replace(finding.sln, heat=None, heat_range=None),
        nsln=replace(finding.nsln, heat=None, heat_range=None),
        slnd=finding.slnd,
        report=report,
    )
    return {Laterality.LEFT: replace(prior, **changes)}


def test_high_risk_waits_for_dissection_with_one_report_and_one_map(study, cascade):
    (case,) = pipeline.analyze(study, at_threshold(cascade, 0.0), DEVICE)

    values = read_report(dcmread(BytesIO(case.documents[0].content)))
    assert case.finding.pathway is Pathway.AWAITING_SLND
    assert [one.kind for one in case.documents] == ["SR", "SC"]
    assert values.sln.probability == pytest.approx(case.finding.sln.probability)
    assert values.nsln.status is StageStatus.PENDING
    assert values.nsln.probability is None


def test_low_risk_ends_with_stage_one(study, cascade):
    (case,) = pipeline.analyze(study, at_threshold(cascade, 1.0), DEVICE)

    assert case.finding.pathway is Pathway.SLN_LOW_RISK
    assert case.finding.nsln.status is StageStatus.NOT_INDICATED
    assert case.finding.nsln.probability is None


def test_a_sites_threshold_is_named_with_its_own_sensitivity(study, cascade):
    (own,) = pipeline.analyze(study, cascade, DEVICE)
    (site,) = pipeline.analyze(study, at_threshold(cascade, 0.95), DEVICE)

    assert own.finding.sln.threshold_source == "made for tests"
    assert (own.finding.sln.sensitivity.k, own.finding.sln.sensitivity.n) == (3, 4)
    assert site.finding.sln.threshold == 0.95
    assert site.finding.sln.threshold_source == "site: test"
    assert (site.finding.sln.sensitivity.k, site.finding.sln.sensitivity.n) == (0, 4)
    assert site.finding.sln.probability == own.finding.sln.probability
    assert site.finding.sln.risk is Risk.LOW


def test_the_same_study_gives_the_same_bytes_of_numbers_and_uids(study, cascade):
    (first,) = pipeline.analyze(study, cascade, DEVICE)
    (second,) = pipeline.analyze(study, cascade, DEVICE)

    assert first.finding.result_id == second.finding.result_id
    assert first.finding.sln.probability == second.finding.sln.probability
    assert [one.sop_instance_uid for one in first.documents] == [
        one.sop_instance_uid for one in second.documents
    ]


def test_an_unchanged_input_makes_no_new_version(study, cascade, tmp_path):
    (case,) = pipeline.analyze(study, cascade, DEVICE)
    again = replace(study, priors=after(case, tmp_path))

    assert pipeline.analyze(again, cascade, DEVICE) == ()


def test_reprocessing_makes_a_new_version_of_an_unchanged_input(
    study, cascade, tmp_path
):
    (case,) = pipeline.analyze(study, cascade, DEVICE)
    again = replace(study, priors=after(case, tmp_path, stale=True))

    (second,) = pipeline.analyze(again, cascade, DEVICE)

    assert second.finding.version == 2
    assert second.supersedes == case.finding.result_id
    assert [one.kind for one in second.documents] == ["SR", "SC"]


def test_a_positive_dissection_runs_stage_two_and_keeps_stage_one(
    study, cascade, tmp_path
):
    (case,) = pipeline.analyze(study, at_threshold(cascade, 0.0), DEVICE)
    again = replace(
        study,
        priors=after(case, tmp_path),
        slnd={Laterality.LEFT: POSITIVE},
    )

    (second,) = pipeline.analyze(again, at_threshold(cascade, 1.0), DEVICE)

    report = dcmread(BytesIO(second.documents[0].content))
    previous = report.PredecessorDocumentsSequence[0]
    assert second.finding.sln.threshold == 0.0  # as decided then, not as set now
    assert second.finding.nsln.status is StageStatus.DONE
    assert len(second.documents) == 2  # the map of stage I was sent before
    assert previous.StudyInstanceUID == study.study_uid
    assert report.CompletionFlag == "COMPLETE"


def test_a_conditional_stage_two_stands_with_the_same_numbers_once_positive(
    study, cascade, tmp_path
):
    before = replace(study, stage_two=StageTwo.CONDITIONAL)
    (first,) = pipeline.analyze(before, at_threshold(cascade, 0.0), DEVICE)
    known = replace(before, priors=after(first, tmp_path))
    positive = replace(known, slnd={Laterality.LEFT: POSITIVE})
    negative = replace(
        known, slnd={Laterality.LEFT: replace(POSITIVE, result=Slnd.NEGATIVE)}
    )

    (done,) = pipeline.analyze(positive, at_threshold(cascade, 0.0), DEVICE)
    (excluded,) = pipeline.analyze(negative, at_threshold(cascade, 0.0), DEVICE)

    said = read_report(dcmread(BytesIO(first.documents[0].content)))
    assert first.finding.pathway is Pathway.AWAITING_SLND
    assert (said.complete, said.nsln.status) == (False, StageStatus.CONDITIONAL)
    assert (said.nsln.risk, said.nsln.threshold) == (None, 0.3)
    assert [one.kind for one in first.documents] == ["SR", "SC", "SC"]
    assert done.finding.nsln.probability == first.finding.nsln.probability
    assert done.finding.nsln.risk is not None
    assert done.finding.pathway in {Pathway.NSLN_LOW_RISK, Pathway.NSLN_HIGH_RISK}
    assert excluded.finding.nsln.probability is None
    assert excluded.finding.nsln.status is StageStatus.EXCLUDED


def test_a_positive_result_that_is_corrected_supersedes_a_done_stage_two(
    study, cascade, tmp_path
):
    positive = replace(study, slnd={Laterality.LEFT: POSITIVE})
    (done,) = pipeline.analyze(positive, at_threshold(cascade, 0.0), DEVICE)
    negative = replace(
        study,
        priors=after(done, tmp_path),
        slnd={Laterality.LEFT: replace(POSITIVE, result=Slnd.NEGATIVE, slnd_id=2)},
    )

    (second,) = pipeline.analyze(negative, at_threshold(cascade, 0.0), DEVICE)

    assert second.supersedes == done.finding.result_id
    assert second.finding.pathway is Pathway.SLN_NEGATIVE
    assert second.finding.nsln.probability is None


def test_a_miss_of_stage_one_is_discordant(study, cascade):
    positive = replace(study, slnd={Laterality.LEFT: POSITIVE})

    (case,) = pipeline.analyze(positive, at_threshold(cascade, 1.0), DEVICE)

    assert case.finding.discordant
    assert case.finding.nsln.status is StageStatus.DONE
    assert [one.kind for one in case.documents] == ["SR", "SC", "SC"]


def test_a_side_that_was_analysed_and_is_not_marked_any_more_holds_the_study(
    study, cascade, tmp_path
):
    (case,) = pipeline.analyze(study, cascade, DEVICE)
    prior = after(case, tmp_path)[Laterality.LEFT]

    with pytest.raises(StudyHeldError, match="side R") as caught:
        pipeline.analyze(
            replace(study, priors={Laterality.RIGHT: prior}), cascade, DEVICE
        )

    assert caught.value.reason is Reason.ROI_CONFLICT


def test_a_score_that_is_no_number_is_no_result(study, cascade):
    network = copy.deepcopy(cascade.sln.network)
    network.fc.weight.data[0, 0] = float("nan")
    broken = replace(cascade, sln=replace(cascade.sln, network=network))

    with pytest.raises(PermanentError, match="no finite score"):
        pipeline.analyze(study, broken, DEVICE)


def test_a_study_without_a_rectangle_is_held(study, cascade):
    without = replace(study, stored=study.stored[:-1])

    with pytest.raises(StudyHeldError) as caught:
        pipeline.analyze(without, cascade, DEVICE)

    assert caught.value.reason is Reason.NO_ROI


def test_overlays_count_where_the_site_asks(study, slices, cascade, tmp_path):
    drawn = roi_objects.with_overlay(slices[0], roi_objects.outline(slices[0]))
    drawn.save_as(study.stored[0].path, enforce_file_format=True)
    bare = replace(study, stored=study.stored[:-1])
    with pytest.raises(StudyHeldError) as held:
        pipeline.analyze(bare, cascade, DEVICE)
    assert held.value.reason is Reason.NO_ROI
    (case,) = pipeline.analyze(
        replace(bare, rules=Rules(overlays=True)), cascade, DEVICE
    )
    assert case.finding.selection.roi.carrier == "OVERLAY"
