"""What comes late, from another study, or by hand, with a PACS that is counted."""

from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from tests import dicom_objects
from tests.peers import Orthanc, Sentinode, dciodvfy, dcmsend, wait_until

pytestmark = pytest.mark.e2e
NEVER = "600"


@pytest.fixture
def slices(request: pytest.FixtureRequest):
    return dicom_objects.fresh_study(request.node.name)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, quick_models: Path):
    """An installation that asks its PACS for counts, and waits long for more."""
    folder = tmp_path_factory.mktemp("counted")
    sentinode = Sentinode(folder / "sentinode", quick_models)
    orthanc = Orthanc(folder / "orthanc", sentinode.port).start()
    sentinode.use(str(orthanc), NEVER, "--query", str(orthanc))
    try:
        sentinode.start()
        yield sentinode, orthanc
    finally:
        code = sentinode.stop()
        orthanc.stop()
    assert code == 0, sentinode.logs()


def uid_of(slices) -> str:
    return str(slices[0].StudyInstanceUID)


def send(peer, write, datasets) -> None:
    dcmsend(str(peer), *(write(one) for one in datasets))


def history_of(study) -> list[str]:
    return [one["what"] for one in study["events"]]


def test_a_complete_study_is_analysed_long_before_its_sender_must_be_quiet(
    counted, slices, write
):
    sentinode, orthanc = counted
    mark = dicom_objects.gsps_rectangle([slices[4]])
    send(orthanc, write, [*slices, mark])
    send(sentinode, write, [*slices, mark])
    sentinode.await_state(uid_of(slices), "analyzed")
    orthanc.await_instances(uid_of(slices), "OT")
    rest = dicom_objects.reread(slices[0])
    rest.SeriesInstanceUID, rest.SeriesDescription = generate_uid(), "t2_tse"
    rest.SOPInstanceUID = rest.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    rest.ScanningSequence = "SE"
    send(sentinode, write, [rest])
    sentinode.run("studies", "complete", uid_of(slices))
    study = sentinode.await_state(uid_of(slices), "analyzed")

    (result,) = sentinode.json("results", "show", uid_of(slices))
    assert result["laterality"] == "L"
    assert study["events"][1]["detail"].startswith("complete: the rectangle")
    deliveries = [
        one
        for one in sentinode.json("deliveries", "list")
        if one["result_id"] == result["result_id"]
    ]
    assert len(deliveries) == 2


def test_an_image_that_was_not_routed_holds_its_study_until_it_comes(
    counted, slices, write
):
    sentinode, orthanc = counted
    mark = dicom_objects.gsps_rectangle([slices[4]])
    send(orthanc, write, [*slices, mark])
    send(sentinode, write, [*slices[:-1], mark])
    assert sentinode.run("studies", "complete", uid_of(slices)).returncode == 0
    held = sentinode.await_state(uid_of(slices), "held")
    send(sentinode, write, slices[-1:])
    study = sentinode.await_state(uid_of(slices), "analyzed")

    assert held["reason"] == "incomplete"
    assert "8 MR image(s) are here, 9 at the archive" in held["detail"]
    assert str(slices[-1].SeriesInstanceUID) in held["detail"]
    assert history_of(study).count("analyzing") == 1
    assert sentinode.json("doctor")["ok"]


def test_a_mark_in_a_study_of_its_own_and_a_hand_that_overrules_it(
    site: tuple[Sentinode, Orthanc], slices, write, tmp_path
):
    sentinode, orthanc = site
    mark = dicom_objects.gsps_rectangle([slices[4]])
    send(sentinode, write, [dicom_objects.in_another_study(mark, str(tmp_path))])
    notes = dicom_objects.derived("study", str(tmp_path))
    waiting = sentinode.await_state(notes, "held")
    send(sentinode, write, slices)
    study = sentinode.await_state(uid_of(slices), "analyzed")
    ended = sentinode.await_state(notes, "ignored")
    done = sentinode.run(
        *("roi", "set", "--sop", str(slices[4].SOPInstanceUID), "--yes"),
        *("--box", "12", "25", "52", "60"),
    )
    newest = wait_until(lambda: two_results(sentinode, slices), "a second result")
    reports = orthanc.await_instances(uid_of(slices), "SR", 2)

    assert waiting["reason"] == "roi_image_missing"
    assert study["roi"]["carrier"] == "GSPS"
    assert any(notes in sentence for sentence in study["selection"]["why"])
    assert ended["reason"] == "annotates_other_study"
    assert uid_of(slices) in ended["detail"]
    assert done.returncode == 0, done.stderr
    assert newest["supersedes"]
    assert sentinode.study(uid_of(slices))["roi"]["carrier"] == "MANUAL"
    for number, instance in enumerate(reports):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(orthanc.file(instance))
        assert dciodvfy(path) == []


def two_results(sentinode: Sentinode, slices):
    found = sentinode.json("results", "show", uid_of(slices))
    return found[0] if len(found) == 2 else None


def test_a_study_whose_patient_changes_is_held(
    site: tuple[Sentinode, Orthanc], slices, write
):
    sentinode, _ = site
    mark = dicom_objects.gsps_rectangle([slices[4]])
    send(sentinode, write, [*slices, mark])
    sentinode.await_state(uid_of(slices), "analyzed")
    moved = dicom_objects.reread(slices[0])
    moved.SOPInstanceUID = moved.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    moved.PatientID = "SOMEBODY-ELSE"
    send(sentinode, write, [moved])
    held = sentinode.await_state(uid_of(slices), "held")

    assert held["reason"] == "patient_mismatch"
    assert len(sentinode.json("results", "show", uid_of(slices))) == 1
