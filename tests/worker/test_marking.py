"""`sentinode roi set`, `unset` and `list`."""

import json

import pytest
from click.testing import CliRunner

from dicom_node.study import Reason, StudyState
from tests import dicom_objects
from worker.cli import main
from worker.tasks.analysis import analyze

BOX = ("20", "30.5", "44", "50")


@pytest.fixture
def run(bench, monkeypatch):
    monkeypatch.setenv("SENTINODE_MODELS_DIR", str(bench.site.settings.models))

    def call(*arguments, stdin=None):
        data_dir = ("--data-dir", str(bench.site.settings.data_dir))
        return CliRunner().invoke(main, [*arguments, *data_dir], input=stdin)

    return call


@pytest.fixture
def held(bench, slices, source):
    uid = bench.receive(*slices)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    assert bench.study(uid).reason is Reason.NO_ROI
    return uid


def test_a_rectangle_set_by_hand_is_analysed(bench, slices, run, held, source):
    image = str(slices[4].SOPInstanceUID)
    done = run("roi", "set", "--sop", image, "--box", *BOX, "--yes", "--json")
    analyze(held, bench.site, source)
    shown = json.loads(run("studies", "show", held, "--json").stdout)

    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["study_uid"], said["state"]) == (held, "queued")
    assert (said["laterality"], said["x0"], said["y0"]) == ("L", 20.0, 30.5)
    assert shown["state"] == "analyzed"
    assert shown["roi"]["carrier"] == "MANUAL"
    assert shown["roi"]["author"] == said["set_by"]
    assert shown["roi"]["exact"] is True
    assert shown["roi"]["y0"] == 30.5


def test_it_shows_what_it_would_do_and_asks(bench, slices, run, held):
    image = str(slices[1].SOPInstanceUID)  # before contrast: the next phase is meant
    asked = run("roi", "set", "--sop", image, "--box", *BOX, stdin="n\n")

    assert asked.exit_code == 1
    assert str(slices[4].SOPInstanceUID) in asked.stderr
    assert "post-contrast 1" in asked.stderr
    assert bench.study(held).state is StudyState.HELD
    assert json.loads(run("roi", "list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (("20", "30", "20", "50"), "X0 < X1"),
        (("44", "30", "20", "50"), "X0 < X1"),
        (("20", "50", "44", "30"), "Y0 < Y1"),
        (("-1", "30", "44", "50"), "outside the image"),
        (("20", "30", "112.5", "50"), "112 x 96"),
        (("20", "30", "44", "97"), "112 x 96"),
        (("nan", "30", "44", "50"), "four numbers"),
        (("20", "30", "inf", "50"), "four numbers"),
        (("20", "30", "44"), ""),
        (("a", "b", "c", "d"), ""),
    ],
)
def test_a_box_that_is_none_on_the_image_is_wrong_usage(slices, run, held, box, said):
    image = str(slices[4].SOPInstanceUID)
    done = run("roi", "set", "--yes", "--sop", image, "--box", *box)
    assert done.exit_code == 2
    assert said in done.stderr


def test_an_unknown_image_is_exit_code_3(run, held):
    done = run("roi", "set", "--sop", "1.2.3", "--box", *BOX, "--yes")
    assert done.exit_code == 3
    assert "1.2.3" in done.stderr


def test_a_box_larger_than_any_lesion_is_wrong_usage(bench, run):
    coarse = dicom_objects.fresh_study("coarse", PixelSpacing=[1.0, 4.0])
    bench.receive(*coarse)
    image = str(coarse[4].SOPInstanceUID)
    done = run("roi", "set", "--yes", "--sop", image, "--box", "0", "0", "50", "90")
    assert done.exit_code == 2
    assert "200 mm" in done.stderr


def test_what_cannot_be_analysed_is_not_set(bench, slices, run, held):
    image = str(slices[4].SOPInstanceUID)
    tiny = run("roi", "set", "--yes", "--sop", image, "--box", "20", "30", "22", "50")
    frame = run("roi", "set", "--yes", "--sop", image, "--box", *BOX, "--frame", "2")
    mark = dicom_objects.gsps_rectangle([slices[4]])
    bench.receive(mark)
    document = str(mark.SOPInstanceUID)
    other = run("roi", "set", "--yes", "--sop", document, "--box", *BOX)

    assert (tiny.exit_code, frame.exit_code, other.exit_code) == (4, 4, 4)
    assert "4 pixels" in tiny.stderr
    assert "no frame 2" in frame.stderr
    assert "no MR image" in other.stderr
    assert json.loads(run("roi", "list", held, "--json").stdout) == []


def test_a_study_that_contradicts_itself_takes_no_rectangle(bench, slices, run, held):
    stranger = dicom_objects.reread(slices[0])
    stranger.SOPInstanceUID = dicom_objects.derived("stranger")
    stranger.PatientID = "SOMEBODY-ELSE"
    bench.receive(stranger)
    image = str(slices[4].SOPInstanceUID)
    done = run("roi", "set", "--sop", image, "--box", *BOX, "--yes")
    assert done.exit_code == 4
    assert "another patient" in done.stderr


def test_every_entry_is_kept_and_the_newest_counts(slices, run, held):
    image = str(slices[4].SOPInstanceUID)
    other = ("10", "30", "40", "60")
    first = run(
        *("roi", "set", "--sop", image, "--box", *BOX, "--yes"),
        *("--note", "read at the console"),
    )
    run("roi", "set", "--sop", image, "--box", *other, "--yes")
    listed = json.loads(run("roi", "list", held, "--json").stdout)
    unset = run("roi", "unset", "--sop", image, "--yes", "--json")
    after = json.loads(run("roi", "list", "--json").stdout)
    again = run("roi", "unset", "--sop", image, "--yes")
    table = run("roi", "list")

    assert "side L; the study is queued" in first.stdout
    assert [one["counts"] for one in listed] == [False, True]
    assert listed[0]["note"] == "read at the console"
    assert json.loads(unset.stdout)["x0"] is None
    assert [one["counts"] for one in after] == [False, False, False]
    assert again.exit_code == 3
    assert "taken back" in table.stdout


def test_a_study_that_nobody_knows_has_no_list(run, held):
    assert run("roi", "list", "9.9").exit_code == 3


@pytest.fixture
def midline(bench, source):
    """A study whose rectangle lies between the breasts: nothing tells its side."""
    slices = dicom_objects.dynamic_series(
        slices=1, ImagePositionPatient=[-32.0, -60.0, 0.0]
    )
    uid = bench.receive(*slices, dicom_objects.gsps_rectangle([slices[1]]))
    bench.queue(uid)
    analyze(uid, bench.site, source)
    held = bench.study(uid)
    assert held.reason is Reason.LATERALITY_UNKNOWN
    assert "--side L|R" in held.detail
    return uid, str(slices[1].SOPInstanceUID)


def test_a_side_that_nothing_tells_can_be_stated(bench, run, midline, source):
    uid, image = midline
    without = run("roi", "set", "--sop", image, "--box", *BOX, "--yes")
    done = run("roi", "set", "--sop", image, "--box", *BOX, "--side", "R", "--yes")
    analyze(uid, bench.site, source)
    (result,) = bench.results(uid)

    assert without.exit_code == 4
    assert done.exit_code == 0, done.output
    assert bench.study(uid).state is StudyState.ANALYZED
    assert (result.laterality, result.laterality_derived) == ("R", False)
    assert "The right side was stated." in result.why
    (entry,) = json.loads(run("roi", "list", uid, "--json").stdout)
    assert entry["side_stated"] is True
