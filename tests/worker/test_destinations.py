"""Where results go, by the settings; secrets go nowhere else."""

import pytest

from dicom_node.destination import WebService
from dicom_node.errors import SettingsError
from dicom_node.settings import load
from dicom_node.study import Peer
from worker.settings import WorkerSettings

PACS = Peer("PACS", "pacs", 104)
WEB = WebService("https://pacs.example/dicom-web")


def read(**values) -> WorkerSettings:
    return load(WorkerSettings, data_dir="/x", **values)


def test_results_go_to_archives_and_web_services():
    found = read(pacs=str(PACS), stow=f"{WEB}/, http://other/web")
    assert found.destinations == (PACS, WEB, WebService("http://other/web"))


@pytest.mark.parametrize(
    ("commit", "expected"),
    [("", False), ("OTHER", False), ("OTHER,PACS", True), ("all", True)],
)
def test_archives_are_asked_to_commit_by_name(commit, expected):
    found = read(commit=commit)
    assert found.commits(PACS) is expected
    assert not found.commits(WEB)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"stow": "https://anna:hunter2@pacs/web"}, "credentials come from a file"),
        ({"stow": "pacs"}, "is not of the form"),
        ({"stow": "http://pacs/web", "stow_token_file": "/t"}, "need https"),
        (
            {"stow": "https://a/web,https://b/web", "stow_token_file": "/t"},
            "would be sent to another",
        ),
        (
            {"stow": str(WEB), "stow_token_file": "/t", "stow_password_file": "/p"},
            "not both",
        ),
    ],
)
def test_what_would_give_a_secret_away_is_refused_unquoted(values, why):
    with pytest.raises(SettingsError, match=why) as raised:
        read(**values)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("url", ["https://pacs/web", "http://127.0.0.1:8042/web"])
@pytest.mark.parametrize("kind", ["stow_token_file", "stow_password_file"])
def test_a_secret_may_go_over_https_or_stay_on_the_host(url, kind):
    assert read(stow=url, **{kind: "/secret"}).stow == (WebService(url),)
