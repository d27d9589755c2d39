"""Results on their way: to an archive that commits, and to a web service."""

import pytest

from tests import dicom_objects
from tests.peers import Orthanc, Sentinode, dcmsend, free_port, wait_until

pytestmark = pytest.mark.e2e

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
WORD = "hunter2-of-the-test"
WEB = {
    "Plugins": [PLUGIN],
    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    "AuthenticationEnabled": True,
    "RegisteredUsers": {"anna": WORD},
}


def test_an_archive_commits_and_a_web_service_gets_the_same(
    tmp_path, quick_models, write, request
):
    slices = dicom_objects.fresh_study(request.node.name)
    uid = str(slices[0].StudyInstanceUID)
    secret = tmp_path / "password"
    secret.write_text(f"anna:{WORD}")
    sentinode = Sentinode(tmp_path / "sentinode", quick_models)
    archive = Orthanc(tmp_path / "archive", sentinode.port)
    web = Orthanc(tmp_path / "web", free_port(), options=WEB)
    web.credentials = ("anna", WORD)
    url = f"http://127.0.0.1:{web.http}/dicom-web"
    sentinode.extra["SENTINODE_STOW_PASSWORD_FILE"] = str(secret)
    sentinode.use(str(archive), "2", "--commit", "all", "--stow", url)
    archive.start()
    web.start()
    try:
        sentinode.start()
        mark = dicom_objects.gsps_rectangle([slices[4]])
        dcmsend(str(sentinode), *(write(one) for one in [*slices, mark]))
        sentinode.await_state(uid, "analyzed")
        wanted = {(str(archive), "committed"), (url, "sent")}

        def look():
            found = sentinode.json("deliveries", "list")
            states = {(one["destination"], one["state"]) for one in found}
            return found if states == wanted else None

        found = wait_until(look, "committed and sent")
        doctor = sentinode.json("doctor")
        said = sentinode.logs() + (sentinode.folder / "up.json").read_text()
    finally:
        code = sentinode.stop()
        archive.stop()
        there = {
            instance["MainDicomTags"]["SOPInstanceUID"]
            for instance in web.get("/instances?expand")
        }
        web.stop()
    assert code == 0
    assert there == {one["sop_instance_uid"] for one in found}
    assert doctor["ok"]
    assert WORD not in said
