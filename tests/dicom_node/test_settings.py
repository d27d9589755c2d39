import json
import stat
from datetime import timedelta

import pytest
from sqlalchemy import make_url

from dicom_node import settings
from dicom_node.errors import SettingsError
from dicom_node.settings import (
    AllowedPeer,
    NodeSettings,
    load,
    patient_secret,
)
from dicom_node.spelling import ELSEWHERE
from dicom_node.study import Peer
from training.settings import TrainingSettings

GIVEN_KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTINODE_DATA_DIR", str(tmp_path / "node"))


def up_file(tmp_path, **values):
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "up.json").write_text(json.dumps(values))


def test_a_flag_beats_the_environment_beats_the_file_beats_the_last_up(
    tmp_path, monkeypatch
):
    up_file(tmp_path, port=1, host="h1", aet="A1", max_associations=1)
    (tmp_path / "sentinode.toml").write_text('port = 2\nhost = "h2"\naet = "A2"\n')
    monkeypatch.setenv("SENTINODE_PORT", "3")
    monkeypatch.setenv("SENTINODE_HOST", "h3")
    found = load(NodeSettings, port=4, host=None)
    assert (found.port, found.host, found.aet) == (4, "h3", "A2")
    assert found.max_associations == 1


def test_one_error_lists_every_fault_with_its_variable_and_no_value(monkeypatch):
    monkeypatch.delenv("SENTINODE_DATA_DIR")
    monkeypatch.setenv("SENTINODE_PORT", "70000")
    monkeypatch.setenv("SENTINODE_PATIENT_KEY_SECRET", "tooshort")
    with pytest.raises(SettingsError) as caught:
        load(NodeSettings)
    text = str(caught.value)
    assert "SENTINODE_DATA_DIR: is not set" in text
    assert "SENTINODE_PORT: " in text
    assert "SENTINODE_PATIENT_KEY_SECRET: " in text
    assert "tooshort" not in text


def test_peers_are_read_from_text_separated_by_commas(monkeypatch):
    monkeypatch.setenv("SENTINODE_PACS", "ONE@pacs:104, TWO@[::1]:105")
    found = load(NodeSettings)
    assert found.pacs == (Peer("ONE", "pacs", 104), Peer("TWO", "::1", 105))


def test_settings_survive_the_way_through_the_last_up(tmp_path, monkeypatch):
    first = load(
        NodeSettings,
        pacs="ONE@pacs:104",
        allow="A@10.0.0.0/8,B",
        quiet_period=2.5,
        quiet_periods="SCANNER 1=600",
    )
    up_file(tmp_path, **first.model_dump(mode="json", exclude={"data_dir"}))
    assert load(NodeSettings) == first


def test_periods_are_seconds_unless_they_say_otherwise(monkeypatch):
    monkeypatch.setenv("SENTINODE_QUIET_PERIOD", "90")
    monkeypatch.setenv("SENTINODE_QUIET_PERIODS", "SCANNER 1=600,B=0.5")
    found = load(NodeSettings)
    assert found.quiet_period == timedelta(seconds=90)
    assert found.quiet_periods == {
        "SCANNER 1": timedelta(minutes=10),
        "B": timedelta(seconds=0.5),
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("aet", "SEVENTEEN LETTERS"),
        ("pacs", "ONE@pacs"),
        ("allow", "A@10.0.0.0/40"),
        ("quiet_period", "-1"),
        ("quiet_period", "soon"),
        ("port", "eleven"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(field, value):
    with pytest.raises(SettingsError, match=f"SENTINODE_{field.upper()}"):
        load(NodeSettings, **{field: value})


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "sentinode.toml").write_text("port = ")
    with pytest.raises(SettingsError, match=r"sentinode\.toml"):
        load(NodeSettings)
    (tmp_path / "sentinode.toml").unlink()
    up_file(tmp_path)
    (tmp_path / "node" / "up.json").write_text("{")
    with pytest.raises(SettingsError, match=r"up\.json"):
        load(NodeSettings)


def test_the_database_is_sqlite_in_the_data_folder_unless_told(tmp_path):
    assert load(NodeSettings).database == f"sqlite:///{tmp_path}/node/sentinode.db"
    assert load(NodeSettings, database_url="sqlite://").database == "sqlite://"


def test_the_patient_key_is_made_once_and_readable_by_its_owner_alone(tmp_path):
    first = patient_secret(load(NodeSettings))
    assert patient_secret(load(NodeSettings)) == first
    assert len(first) == 32
    mode = (tmp_path / "node" / "patient.key").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert [each.name for each in (tmp_path / "node").iterdir()] == ["patient.key"]


def test_a_given_patient_key_needs_no_file(tmp_path):
    found = load(NodeSettings, patient_key_secret=GIVEN_KEY)
    assert patient_secret(found) == GIVEN_KEY.encode()
    assert GIVEN_KEY not in repr(found)


@pytest.mark.parametrize(
    ("allowed", "ae_title", "address", "admitted"),
    [
        ("A", "A", "192.0.2.1", True),
        ("A", "B", "192.0.2.1", False),
        ("A@192.0.2.0/24", "A", "192.0.2.77", True),
        ("A@192.0.2.0/24", "A", "192.0.3.77", False),
        ("A@192.0.2.1", "A ", "::ffff:192.0.2.1", True),
        ("A@192.0.2.1", "A", "2001:db8::1", False),
        ("A@2001:db8::/32", "A", "2001:db8::1", True),
    ],
)
def test_a_caller_is_admitted_by_title_and_address(
    allowed, ae_title, address, admitted
):
    assert AllowedPeer.parse(allowed).admits(ae_title, address) is admitted


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "postgresql://user:hunter2@host:port/name",
        "postgresql//user:hunter2@host/name",
        "mysql://user:hunter2@host/name",
    ],
)
def test_a_database_that_cannot_be_meant_is_refused_without_its_password(url):
    with pytest.raises(SettingsError, match="SENTINODE_DATABASE_URL: is not") as fault:
        load(NodeSettings, data_dir="/x", database_url=url)
    assert "hunter2" not in str(fault.value)
    assert fault.value.__cause__ is None


@pytest.mark.parametrize(
    "url", ["sqlite:////x/y.db", "postgresql+psycopg://user:hunter2@host:5432/name"]
)
def test_a_database_is_named_by_its_url(url):
    found = load(NodeSettings, data_dir="/x", database_url=url)
    assert found.database == url
    assert "hunter2" not in repr(found)


def test_a_password_comes_from_a_file_and_never_from_the_environment(tmp_path):
    secret = "p@ss:w/rd%"  # noqa: S105 - of a database that is not there
    (tmp_path / "password").write_text(f"{secret}\n")
    found = load(
        NodeSettings,
        database_url="postgresql+psycopg://sentinode@db.example/sentinode",
        database_password_file=tmp_path / "password",
    )
    assert make_url(found.database).password == secret
    assert make_url(found.database).host == "db.example"
    assert "p@ss" not in repr(found)


def test_a_secret_that_cannot_be_read_is_named_by_its_file(tmp_path):
    missing = tmp_path / "missing"
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "short").write_text("tooshort\n")
    url = "postgresql://u@h/d"
    with pytest.raises(SettingsError, match="missing"):
        _ = load(
            NodeSettings, database_url=url, database_password_file=missing
        ).database
    with pytest.raises(SettingsError, match="is empty"):
        patient_secret(load(NodeSettings, patient_key_secret_file=tmp_path / "empty"))
    with pytest.raises(SettingsError, match="fewer than 16") as caught:
        patient_secret(load(NodeSettings, patient_key_secret_file=tmp_path / "short"))
    assert "tooshort" not in str(caught.value)


def test_the_patient_key_of_several_hosts_is_the_same_file(tmp_path):
    (tmp_path / "key").write_text(f"{GIVEN_KEY}\n")
    found = load(NodeSettings, patient_key_secret_file=tmp_path / "key")
    assert patient_secret(found) == GIVEN_KEY.encode()
    assert not (tmp_path / "node").exists()


@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_setting_under_its_old_name_is_taken_with_one_warning(
    tmp_path, monkeypatch, caplog, place
):
    old = f"old_title_{place}"
    monkeypatch.setitem(settings.RENAMED, old, "aet")
    if place == "environment":
        monkeypatch.setenv(f"SENTINODE_{old.upper()}", "OLD")
    else:
        (tmp_path / "sentinode.toml").write_text(f'{old} = "OLD"\n')
    found = [load(NodeSettings).aet for _ in range(2)]
    assert found == ["OLD", "OLD"]
    (said,) = [one.getMessage() for one in caplog.records]
    assert f"SENTINODE_{old.upper()} is called SENTINODE_AET now" in said


def test_the_new_name_of_a_setting_beats_the_old_one(monkeypatch):
    monkeypatch.setitem(settings.RENAMED, "former_title", "aet")
    monkeypatch.setenv("SENTINODE_FORMER_TITLE", "OLD")
    monkeypatch.setenv("SENTINODE_AET", "NEW")
    assert load(NodeSettings).aet == "NEW"


def test_what_the_file_names_and_is_no_setting_is_refused_with_what_was_meant(tmp_path):
    (tmp_path / "sentinode.toml").write_text("quiet_peroid = 5\ntable.key = 1\n")
    with pytest.raises(SettingsError) as caught:
        load(NodeSettings)
    said = str(caught.value).splitlines()
    assert said == [
        "sentinode.toml: quiet_peroid is no setting; is quiet_period meant?",
        "sentinode.toml: table is no setting",
    ]


def test_the_listener_takes_a_file_with_settings_of_workers_and_trainer(tmp_path):
    (tmp_path / "sentinode.toml").write_text(
        "port = 5\nretrain_cases = 9\nworkers = 2\n"
    )
    assert load(NodeSettings).port == 5


def test_every_setting_of_another_process_is_known_to_the_listener():
    theirs = set(TrainingSettings.model_fields) - set(NodeSettings.model_fields)
    assert theirs == ELSEWHERE


def test_a_variable_that_is_no_setting_is_warned_of_once(monkeypatch, caplog):
    settings.warn_of_ignored.cache_clear()  # another test may have been warned
    monkeypatch.setenv("SENTINODE_QUIET_PERIODE", "5")
    monkeypatch.setenv("SENTINODE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("SENTINODE_REAL_DATA", "/somewhere")
    assert settings.ignored(NodeSettings) == {
        "SENTINODE_QUIET_PERIODE": "SENTINODE_QUIET_PERIOD",
        "SENTINODE_SERVICE_HOST": None,
    }
    load(NodeSettings)
    load(NodeSettings)
    said = [one.getMessage() for one in caplog.records]
    nothing = "is no setting and does nothing"
    assert said == [
        f"SENTINODE_QUIET_PERIODE {nothing}; is SENTINODE_QUIET_PERIOD meant?",
        f"SENTINODE_SERVICE_HOST {nothing}",
    ]
