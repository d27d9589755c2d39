"""`sentinode roi explain`: the chain as JSON, as a table, as a picture."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner
from PIL import Image

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.findings import Stage
from dicom_node.study import Reason, StudyState
from tests import dicom_objects
from worker import models as model_store
from worker import outcomes
from worker.cli import main
from worker.tasks.analysis import analyze

KEYS = {
    *("study_uid", "state", "reason", "detail", "phase", "phase_source", "outcome"),
    *("held", "marks", "refused", "key_images", "sides"),
}
MARK_KEYS = {
    *("mark", "verdict", "why", "reason", "carrier", "document_uid", "author"),
    *("label", "tracking_uid", "marked_at", "exact", "adjudicator", "by_position"),
    *("sop_instance_uid", "frame", "series_number", "x0", "y0", "x1", "y1"),
    *("laterality", "area_mm2"),
}
SIDE_KEYS = {"laterality", "phases", "ordered_by", "gaps", "selection", "held"}


@pytest.fixture
def run(bench, monkeypatch):
    settings = bench.site.settings
    monkeypatch.setenv("SENTINODE_MODELS_DIR", str(settings.models))

    def call(*arguments: str):
        data_dir = ("--data-dir", str(settings.data_dir))
        return CliRunner().invoke(main, ["roi", *arguments, *data_dir])

    return call


@pytest.fixture
def received(bench, slices, mark):
    smaller = dicom_objects.sr_rectangle(slices[3], (22.0, 30.0, 40.0, 44.0))
    uid = bench.receive(*slices, mark, smaller)
    bench.queue(uid)
    return uid


def test_the_chain_of_an_analysed_study(bench, run, received, source):
    analyze(received, bench.site, source)
    result = run("explain", received, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    (recorded,) = bench.results(received)

    assert told.keys() == KEYS
    assert told["state"] == StudyState.ANALYZED
    assert told["outcome"] == "selected"
    assert {one["verdict"] for one in told["marks"]} == {"won", "outdone"}
    assert all(one.keys() == MARK_KEYS for one in told["marks"])
    (side,) = told["sides"]
    assert side.keys() == SIDE_KEYS
    assert side["ordered_by"] == "acquisition number"
    assert [one["phase"] for one in side["phases"]] == [
        *("pre-contrast", "post-contrast 1", "post-contrast 2")
    ]
    assert [one["analysed"] for one in side["phases"]] == [False, True, False]
    assert side["selection"]["why"] == list(recorded.why)
    assert side["selection"]["sop_instance_uid"] == recorded.source_sop_instance_uid


def test_the_chain_of_a_held_study_and_its_full_reason(bench, run, slices, source):
    marks = [
        dicom_objects.sr_rectangle(slices[4]),
        dicom_objects.sr_rectangle(slices[4], (30.0, 30.0, 54.0, 50.0), "Other^Otto"),
    ]
    uid = bench.receive(*slices, *marks)
    bench.queue(uid)
    assert analyze(uid, bench.site, source) == ()

    study = bench.study(uid)
    assert (study.state, study.reason) == (StudyState.HELD, Reason.ROI_CONFLICT)
    assert "IoU 0.41" in study.detail
    told = json.loads(run("explain", uid, "--json").stdout)
    assert told["held"] == {"reason": "roi_conflict", "detail": study.detail}
    assert {one["verdict"] for one in told["marks"]} == {"undecided"}


def test_the_settings_of_the_site_decide(bench, run, slices, source, monkeypatch):
    other = dicom_objects.sr_rectangle(slices[4], (22.0, 30.0, 46.0, 50.0), "Other^O")
    uid = bench.receive(*slices, dicom_objects.sr_rectangle(slices[4]), other)
    bench.queue(uid)
    held = json.loads(run("explain", uid, "--json").stdout)
    monkeypatch.setenv("SENTINODE_READERS", "mean")
    mean = json.loads(run("explain", uid, "--json").stdout)
    assert (held["outcome"], mean["outcome"]) == ("held", "selected")
    assert mean["sides"][0]["selection"]["author"] == "Reader^Rita & Other^O"
    assert mean["sides"][0]["selection"]["x0"] == 21.0


def test_an_analysis_follows_the_settings_too(bench, slices, source):
    other = dicom_objects.sr_rectangle(slices[4], (22.0, 30.0, 46.0, 50.0), "Other^O")
    uid = bench.receive(*slices, dicom_objects.sr_rectangle(slices[4]), other)
    bench.queue(uid)
    settings = bench.site.settings.model_copy(update={"readers": "mean"})
    analyze(uid, replace(bench.site, settings=settings), source)
    (recorded,) = bench.results(uid)
    assert recorded.roi.author == "Reader^Rita & Other^O"
    assert recorded.roi.box == (21.0, 30.0, 45.0, 50.0)
    assert "The mean of the rectangles" in " ".join(recorded.why)


def test_people_read_a_table_and_a_picture(run, received, tmp_path):
    png = tmp_path / "chain.png"
    result = run("explain", received, "--png", str(png))
    assert result.exit_code == 0
    for said in ("won", "outdone", "post-contrast 1", "no larger than", "analysed"):
        assert said in result.stdout
    with Image.open(png) as picture:
        assert picture.format == "PNG"
        assert not picture.info


def test_the_phase_is_the_models_or_the_default(bench, run, received, quick_models):
    default = json.loads(run("explain", received, "--json").stdout)
    assert default["phase"] == "post-contrast 1"
    assert default["phase_source"].startswith("the default, since no SLN model")
    model = next(
        one for one in model_store.installed(quick_models) if one.stage == "SLN"
    )
    with bench.sessions.begin() as session:
        named = (model.name, model.version, model.weights_sha256)
        outcomes.activate(session, Stage.SLN, named, "tester", now())
    active = json.loads(run("explain", received, "--json").stdout)
    assert active["phase_source"] == f"model {model.reference}"


def test_nothing_changes_by_looking(bench, run, received):
    before = bench.study(received)
    run("explain", received)
    assert bench.study(received) == before


def test_files_that_retention_took_are_missed_not_a_crash(bench, run, received):
    with bench.sessions() as session:
        stored = ledger.instances(session, received)
    bench.site.spool.absolute(stored[5].path).unlink()
    told = json.loads(run("explain", received, "--json").stdout)
    assert told["outcome"] == "held"
    assert "1 of 11 files are not stored any more" in json.dumps(told)


def test_what_a_person_accepted_is_accepted_here_too(bench, run, slices, mark, source):
    uid = bench.receive(*slices[:-1], mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    before = json.loads(run("explain", uid, "--json").stdout)
    with bench.sessions.begin() as session:
        ledger.accept(session, uid, {Reason.INCOMPLETE}, "tester", now())
    after = json.loads(run("explain", uid, "--json").stdout)
    assert (before["outcome"], after["outcome"]) == ("held", "selected")


def test_a_rectangle_set_by_hand_is_among_the_marks(run, received, slices):
    image = str(slices[4].SOPInstanceUID)
    run("set", "--sop", image, "--box", "20", "30", "44", "50", "--yes")
    told = json.loads(run("explain", received, "--json").stdout)
    won = [one["carrier"] for one in told["marks"] if one["verdict"] == "won"]
    assert (won, len(told["marks"])) == (["MANUAL"], 3)


def test_an_unknown_study_is_not_found(run):
    result = run("explain", "1.2.3.4")
    assert result.exit_code == 3


def test_a_picture_that_cannot_be_written_is_one_sentence(run, received, tmp_path):
    result = run("explain", received, "--png", str(tmp_path / "no" / "chain.png"))
    assert result.exit_code == 1
    assert "cannot be written" in result.output


def test_no_torch_is_needed():
    code = "import sys, worker.cli.roi; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
