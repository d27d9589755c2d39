"""The files that prove who we are: until when they hold, and who else may read them."""

import stat
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from dicom_node import tls
from dicom_node.errors import PermanentError, SettingsError
from dicom_node.settings import PATIENT_KEY_FILE
from dicom_node.tls import TlsFiles
from worker.settings import WorkerSettings

RENEW_WITHIN: Final = timedelta(days=30)
"""From when on before its end a certificate is warned of."""

CERTIFICATES: Final = (
    "tls_certificate",
    "tls_ca",
    "hl7_tls_certificate",
    "hl7_tls_client_ca",
    "stow_ca_file",
    "audit_syslog_certificate",
    "audit_syslog_ca_file",
)
SECRETS: Final = (
    "tls_key",
    "hl7_tls_key",
    "audit_syslog_key",
    "database_password_file",
    "broker_password_file",
    "patient_key_secret_file",
    "store_credentials_file",
    "stow_token_file",
    "stow_password_file",
    "http_token_file",
    "webhook_secret_file",
)


def certificates(settings: WorkerSettings) -> dict[str, Path]:
    """Return the files of certificates by the names of their settings."""
    return dict(_given(settings, CERTIFICATES))


def secrets(settings: WorkerSettings) -> dict[str, Path]:
    """Return the files that nobody else should read, by the names of their settings."""
    own = settings.data_dir / PATIENT_KEY_FILE
    made = {PATIENT_KEY_FILE: own} if own.exists() else {}
    return dict(_given(settings, SECRETS)) | made


def _given(
    settings: WorkerSettings, names: tuple[str, ...]
) -> Iterator[tuple[str, Path]]:
    for name in names:
        path = getattr(settings, name)
        if path is not None:
            yield name, path


def expiries(settings: WorkerSettings) -> dict[str, datetime]:
    """Return when each file of certificates ends; one that is no certificate never."""
    found = {}
    for name, path in certificates(settings).items():
        try:
            found[name] = tls.expiries(path)[0]
        except SettingsError:
            continue
    return found


def check_certificates(settings: WorkerSettings, at: datetime) -> str:
    """Say until when the certificates hold; a warning for one that ends soon.

    Raises:
        SettingsError: A file cannot be used as what it is set for.
        PermanentError: A certificate has expired.
    """
    _load(settings)
    ends = {
        name: tls.expiries(path)[0] for name, path in certificates(settings).items()
    }
    expired = [name for name, end in ends.items() if end <= at]
    if expired:
        raise PermanentError(
            f"expired: {_listed(expired, ends)}. Install new files; the HL7 listener "
            "alone needs a restart"
        )
    soon = [name for name, end in ends.items() if end <= at + RENEW_WITHIN]
    if soon:
        return f"warning: ends soon: {_listed(soon, ends)}"
    return f"valid until {min(ends.values()):%Y-%m-%d}" if ends else "none"


def _load(settings: WorkerSettings) -> None:
    """Use the files once as the processes do."""
    files = settings.tls
    if settings.takes_tls:
        tls.server_context(files, mutual=settings.tls_mutual)
    if files.given:
        tls.client_context(files)
    ca = settings.hl7_tls_client_ca
    if settings.hl7_tls_certificate is not None:
        hl7 = TlsFiles(settings.hl7_tls_certificate, settings.hl7_tls_key, ca)
        tls.server_context(hl7, mutual=ca is not None)
    if settings.audit_syslog is not None and settings.audit_syslog.scheme == "tls":
        settings.audit_identity.context()


def _listed(names: list[str], ends: Mapping[str, datetime]) -> str:
    return ", ".join(f"{name} on {ends[name]:%Y-%m-%d}" for name in names)


def check_secrets(settings: WorkerSettings) -> str:
    """Say which files of secrets everybody on the host may read, as a warning.

    Raises:
        SettingsError: A file is not there, or this process may not read it.
    """
    loose = []
    files = secrets(settings)
    for name, path in files.items():
        try:
            path.open("rb").close()
            mode = path.stat().st_mode
        except OSError as error:
            raise SettingsError(f"{name}: {path}: {error.strerror}") from error
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            loose.append(f"{name} ({path})")
    if loose:
        return f"warning: everybody may read {', '.join(loose)}: chmod o= FILE"
    return f"{len(files)} file(s), none readable by everybody"
