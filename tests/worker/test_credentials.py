"""Until when certificates hold, and who may read the files of secrets."""

from datetime import UTC, datetime, timedelta

import pytest

from dicom_node.errors import PermanentError, SettingsError
from dicom_node.settings import load
from tests.certificates import Hospital
from worker import credentials
from worker.settings import WorkerSettings

T0 = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("hospital"))


def site(hospital, tmp_path, pair=None, **changes) -> WorkerSettings:
    pair = pair or hospital.ours
    given = {
        "tls_certificate": pair.certificate,
        "tls_key": pair.key,
        "tls_ca": hospital.ca,
    }
    return load(WorkerSettings, data_dir=tmp_path, **(given | changes))


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (timedelta(days=31), "valid until 2026-04-04"),
        (timedelta(days=29), "warning: ends soon: tls_certificate on 2026-04-02"),
    ],
)
def test_a_certificate_is_warned_of_thirty_days_ahead(hospital, tmp_path, left, said):
    pair = hospital.pair("brief", "127.0.0.1", not_after=T0 + left)
    assert credentials.check_certificates(site(hospital, tmp_path, pair), T0) == said
    ends = credentials.expiries(site(hospital, tmp_path, pair))
    assert ends["tls_certificate"] == T0 + left


def test_an_expired_certificate_is_a_fault(hospital, tmp_path):
    settings = site(hospital, tmp_path, hospital.expired)
    with pytest.raises(PermanentError, match="expired: tls_certificate on 2020-01-02"):
        credentials.check_certificates(settings, T0)


def test_a_key_of_another_certificate_is_a_fault(hospital, tmp_path):
    settings = site(hospital, tmp_path, tls_key=hospital.peer.key)
    with pytest.raises(SettingsError, match="TLS cannot use"):
        credentials.check_certificates(settings, T0)


def test_files_that_everybody_may_read_are_warned_of(hospital, tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o640)
    settings = site(hospital, tmp_path, http_token_file=token)
    assert credentials.check_secrets(settings).startswith("2 file(s), none")
    token.chmod(0o644)
    said = credentials.check_secrets(settings)
    assert (
        said == f"warning: everybody may read http_token_file ({token}): chmod o= FILE"
    )


def test_a_secret_that_is_not_there_is_a_fault(hospital, tmp_path):
    settings = site(hospital, tmp_path, stow_token_file=tmp_path / "none")
    with pytest.raises(SettingsError, match="stow_token_file"):
        credentials.check_secrets(settings)


def test_every_file_of_the_settings_is_looked_after():
    files = {
        name
        for name in WorkerSettings.model_fields
        if name.endswith(("_file", "_key", "_certificate", "_ca"))
    }
    assert files == {*credentials.CERTIFICATES, *credentials.SECRETS}
