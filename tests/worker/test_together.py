"""Studies that advance together: one pass for all, and nobody pays for another."""

import copy
from dataclasses import replace

import pytest

from dicom_node.errors import (
    PermanentError,
    StudyHeldError,
    UnreadableObjectError,
)
from dicom_node.findings import Slnd
from dicom_node.study import Reason, StudyUid
from tests import dicom_objects
from tests.worker.test_pipeline import DEVICE, POSITIVE, at_threshold
from worker import pipeline
from worker.cascade import score
from worker.pipeline import StudyInput
from worker.together import Request, alone, timed, together

BOXES = ((20.0, 30.0, 44.0, 50.0), (18.0, 28.0, 46.0, 52.0), (14.0, 20.0, 50.0, 60.0))


@pytest.fixture
def studies(tmp_path) -> list[StudyInput]:
    """Three studies whose marks differ."""
    return [written(tmp_path / str(n), str(n), box) for n, box in enumerate(BOXES)]


def written(folder, name, box=BOXES[0], **attributes) -> StudyInput:
    slices = dicom_objects.fresh_study(name, **attributes)
    mark = dicom_objects.gsps_rectangle([slices[4]], box)
    folder.mkdir()
    stored = dicom_objects.store(folder, [*slices, mark])
    return StudyInput(StudyUid(slices[0].StudyInstanceUID), stored, {}, {})


def run(studies, cascade):
    return together([pipeline.steps(study, cascade, DEVICE) for study in studies])


@pytest.fixture
def passes(cascade):
    """The shapes of the inputs of stage I, one for each forward pass."""
    seen = []
    hook = cascade.sln.network.conv1.register_forward_pre_hook(
        lambda _module, given: seen.append(tuple(given[0].shape))
    )
    yield seen
    hook.remove()


def test_studies_share_a_pass_and_get_the_result_that_they_get_alone(
    studies, cascade, passes
):
    singly = [pipeline.analyze(study, cascade, DEVICE) for study in studies]
    passes.clear()

    shared = run(studies, cascade)

    assert passes == [(3, 3, 64, 64)]
    for (one,), (same,) in zip(singly, shared, strict=True):
        assert same.finding.sln.batch == "3x3x64x64"
        assert one.finding.sln.batch == "1x3x64x64"
        assert same.finding.sln.probability == pytest.approx(
            one.finding.sln.probability, abs=1e-5
        )
        assert same.finding.result_id == one.finding.result_id
        assert same.finding.pathway == one.finding.pathway
        assert same.finding.sln.risk == one.finding.sln.risk
        assert same.kept == one.kept
        assert [each.kind for each in same.documents] == ["SR", "SC"]


def test_the_second_stage_is_shared_by_those_that_come_to_it(studies, cascade):
    high = at_threshold(cascade, 0.0)
    dissected = [replace(one, slnd={"L": POSITIVE}) for one in studies[:2]]

    first, second, third = run([*dissected, studies[2]], high)

    assert [case.finding.nsln.batch for (case,) in (first, second)] == [
        "2x3x64x64",
        "2x3x64x64",
    ]
    assert third[0].finding.nsln.probability is None
    assert first[0].finding.slnd.result is Slnd.POSITIVE


def test_a_fault_of_one_study_is_its_own(tmp_path, studies, cascade):
    unmarked = replace(studies[0], stored=studies[0].stored[:-1])
    damaged = written(tmp_path / "damaged", "damaged")
    path = damaged.stored[4].path
    path.write_bytes(path.read_bytes()[:-500])

    def crashing():
        yield from pipeline.steps(studies[0], cascade, DEVICE)
        raise ZeroDivisionError

    held, unreadable, crashed, good = together(
        [
            pipeline.steps(unmarked, cascade, DEVICE),
            pipeline.steps(damaged, cascade, DEVICE),
            crashing(),
            pipeline.steps(studies[1], cascade, DEVICE),
        ]
    )

    assert isinstance(held, StudyHeldError)
    assert held.reason is Reason.NO_ROI
    assert isinstance(unreadable, UnreadableObjectError)
    assert isinstance(crashed, ZeroDivisionError)
    assert good[0].finding.sln.batch == "2x3x64x64"


def test_a_score_that_is_no_number_is_a_fault_of_its_study_alone(studies, cascade):
    def strange():
        asked = next(pipeline.steps(studies[0], cascade, DEVICE))
        x = asked.x.clone()
        x[0, 0, 0] = float("nan")
        yield Request(asked.model, x)

    broken, good = together([strange(), pipeline.steps(studies[1], cascade, DEVICE)])

    assert isinstance(broken, PermanentError)
    assert "no finite score" in str(broken)
    assert 0 < good[0].finding.sln.probability < 1


def test_where_a_pass_fails_as_a_whole_each_study_has_its_own(studies, cascade, passes):
    def too_much(_module, given):
        if len(given[0]) > 1:
            raise MemoryError

    hook = cascade.sln.network.conv1.register_forward_pre_hook(too_much)
    ended = run(studies, cascade)
    hook.remove()

    assert [case.finding.sln.batch for (case,) in ended] == ["1x3x64x64"] * 3


def test_models_that_differ_share_no_pass(studies, cascade, passes):
    """As when another model is activated between two studies of one round."""
    other = replace(cascade, sln=copy.copy(cascade.sln))
    first = pipeline.steps(studies[0], cascade, DEVICE)
    second = pipeline.steps(studies[1], other, DEVICE)

    together([first, second])

    assert passes == [(1, 3, 64, 64)] * 2


def test_each_study_is_read_before_the_next_is_taken(studies, cascade, passes):
    order = []

    def read(study):
        order.append(f"{study.study_uid[-3:]} begins")
        request = next(pipeline.steps(study, cascade, DEVICE))
        order.append(f"{study.study_uid[-3:]} asks")
        yield request

    together(read(study) for study in studies)

    assert order == [
        f"{study.study_uid[-3:]} {what}"
        for study in studies
        for what in ("begins", "asks")
    ]
    assert passes == [(3, 3, 64, 64)]


def test_what_a_study_raises_alone_comes_out(studies, cascade):
    with pytest.raises(StudyHeldError):
        alone(
            pipeline.steps(
                replace(studies[0], stored=studies[0].stored[:-1]), cascade, DEVICE
            )
        )


def test_of_a_shared_pass_a_study_counts_its_share(studies, cascade):
    steps = timed(pipeline.steps(studies[0], cascade, DEVICE))
    asked = next(steps)
    scored = replace(score(asked.model, asked.x), share_ms=3_600_000.0)

    with pytest.raises(StopIteration) as done:
        steps.send(scored)

    (case,), spent = done.value.value
    times = case.timings
    assert min(spent, times.inference_ms) >= scored.share_ms
    assert times.total_ms == pytest.approx(
        times.select_ms + times.decode_ms + times.inference_ms + times.report_ms
    )
