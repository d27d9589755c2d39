"""Settings of the listener, and how every process reads its own.

A flag beats the environment (`SENTINODE_<FIELD>`), which beats `sentinode.toml` in
the working folder, which beats `up.json` in the data folder: what the last
`sentinode up` on that folder ran with.
"""

import json
import logging
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar, cast

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from dicom_node.errors import SettingsError
from dicom_node.spelling import BESIDE, ELSEWHERE, meant
from dicom_node.study import AE_TITLE_PATTERN, MAX_PORT, Duplicate, Peer
from dicom_node.tls import Caller, Certificate, TlsFiles

log = logging.getLogger(__name__)

ENV_PREFIX: Final = "SENTINODE_"
TOML_FILE: Final = Path("sentinode.toml")
UP_FILE: Final = "up.json"
PATIENT_KEY_FILE: Final = "patient.key"
MIN_SECRET_LENGTH: Final = 16
DATABASES: Final = ("sqlite", "postgresql")
FINGERPRINT: Final = "sha256:"
DEFAULT_TLS_PORT: Final = 2762
"""Registered for DICOM over TLS (PS3.8 9.1.1)."""

LogFormat = Literal["json", "console"]

RENAMED: Final[dict[str, str]] = {}
"""Settings that had another name before: old name, new name, both as fields. The old
one is taken, with one warning, until the next major version; the new one beats it."""

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class AllowedPeer:
    """A calling AE title, and the network that it may call from (None: any).

    `holder` is what the certificate of such a call must say, in lower case: a name, or
    `sha256:` and its fingerprint in hex. With it no call without TLS is admitted.
    """

    ae_title: str
    network: Network | None = None
    holder: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read AET, AET@CIDR or AET@[CIDR]#HOLDER; a bare address is a network of one.

        Raises:
            ValueError: The text has another form.
        """
        ae_title, at, rest = text.partition("@")
        network, hash_, holder = rest.partition("#")
        if not AE_TITLE_PATTERN.fullmatch(ae_title):
            raise ValueError(f"{ae_title!r} is not an AE title of 1-16 characters")
        if hash_ and not holder.strip():
            raise ValueError(f"{text!r} names no certificate after #")
        return cls(
            ae_title.strip(),
            ip_network(network, strict=False)
            if at and (network or not hash_)
            else None,
            _holder(holder) if hash_ else None,
        )

    def admits(
        self, ae_title: str, address: str, certificate: Certificate | None = None
    ) -> bool:
        """Say whether a call by this AE title from this IP address is admitted.

        Args:
            ae_title: Calling AE title.
            address: IP address of the caller.
            certificate: What it showed and we verified; None without TLS.
        """
        if ae_title.strip() != self.ae_title:
            return False
        if self.network is not None and unmapped(address) not in self.network:
            return False
        if self.holder is None:
            return True
        return certificate is not None and (
            self.holder in certificate.names
            or self.holder == f"{FINGERPRINT}{certificate.fingerprint}"
        )

    def __str__(self) -> str:
        network = "" if self.network is None else str(self.network)
        holder = "" if self.holder is None else f"#{self.holder}"
        suffix = f"@{network}{holder}" if network or holder else ""
        return f"{self.ae_title}{suffix}"


def _holder(text: str) -> str:
    """Return what a certificate must say, as it is compared.

    Raises:
        ValueError: A fingerprint is not one of SHA-256.
    """
    holder = text.strip().lower()
    if not holder.startswith(FINGERPRINT):
        return holder
    digest = holder.removeprefix(FINGERPRINT).replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"{text!r} is not sha256: and 64 hexadecimal digits")
    return f"{FINGERPRINT}{digest}"


def unmapped(address: str) -> Address:
    """Return an IP address; one of IPv4 inside IPv6 becomes plain IPv4.

    Raises:
        ValueError: The text is not an IP address.
    """
    parsed = ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


def local_host(host: str) -> str:
    """Return where this host reaches what listens on an address."""
    everywhere = host in {"0.0.0.0", "::"}  # noqa: S104 - compared only
    return "127.0.0.1" if everywhere else host


def split_list(value: object) -> object:
    """Read "A, B" as a tuple."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def pairs(value: object) -> object:
    """Read "AET=600,AET2=300" as a mapping."""
    if not isinstance(value, str):
        return value
    parts = [part.partition("=") for part in value.split(",") if part.strip()]
    return {name.strip(): said.strip() for name, _, said in parts}


def _peer(value: object) -> object:
    return Peer.parse(value) if isinstance(value, str) else value


def _allowed(value: object) -> object:
    return AllowedPeer.parse(value) if isinstance(value, str) else value


def _seconds(value: object) -> object:
    """Read a bare number as seconds; pydantic alone refuses it in text."""
    if isinstance(value, int | float):
        return timedelta(seconds=value)
    if not isinstance(value, str):
        return value
    try:
        return timedelta(seconds=float(value))
    except ValueError:
        return value


Listed: Final = BeforeValidator(split_list)
PeerText = Annotated[Peer, BeforeValidator(_peer), PlainSerializer(str)]
AllowedText = Annotated[AllowedPeer, BeforeValidator(_allowed), PlainSerializer(str)]


class NodeSettings(BaseSettings):
    """Settings of the DICOM edge, read once at the entry of a process.

    `data_dir` holds everything that outlives a process. Without `allow` only the
    AE titles of `pacs` are admitted, from the addresses of their hosts. The hosts in
    `monitors` may ask under our own AE title, by C-ECHO alone, whether the listener is
    well; they find it by `host`. A study is
    complete when nothing of it arrived for `quiet_period` (`quiet_periods`: per
    calling AE, in seconds). Below `min_free_bytes` of free disk, and above
    `max_instance_bytes` in one instance, the sender is told to come back later.
    With `tls_certificate` and `tls_key` a second port, `tls_port`, takes calls by TLS:
    from whoever shows a certificate of `tls_ca` that `tls_crl` does not revoke, or from
    anybody without `tls_mutual`. The plain port then answers our own check of health
    alone, unless `tls_only` is off. The same files serve calls that we make.
    `max_associations` stand at once, of which one calling AE and address hold
    `max_associations_per_caller`; an address may call `max_calls_per_minute` times
    (0: as often as it likes).
    With `listener_name`, which no other has, a listener shares its ports with others of
    this host: the kernel deals connections out, and limits are those of each.
    `native_store` reads C-STORE requests of plain associations ourselves, and writes
    those that we send; without it pynetdicom does both.
    `duplicate` says what becomes of another object under a known UID.
    `database_password_file` and `patient_key_secret_file` name files that hold what
    neither the environment nor a list of processes should show.
    With `store_url` the spool is in an object store that all hosts share, and the
    data folder of each holds a cache of it of at most `cache_bytes`.
    `heir_of_all` says that no other listener writes to this database: at its start
    this one ends the associations that any earlier one left open. `log_format` is
    how every process writes its log.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    data_dir: Path
    database_url: str | None = Field(default=None, repr=False)
    aet: str = "SENTINODE"
    host: str = "0.0.0.0"  # noqa: S104 - a listener for the hospital network
    port: int = Field(default=11112, ge=0, le=MAX_PORT)
    pacs: Annotated[tuple[PeerText, ...], NoDecode, BeforeValidator(split_list)] = ()
    allow: Annotated[
        tuple[AllowedText, ...], NoDecode, BeforeValidator(split_list)
    ] = ()
    monitors: Annotated[tuple[str, ...], NoDecode, Listed] = ()
    quiet_period: timedelta = timedelta(seconds=120)
    quiet_periods: Annotated[Mapping[str, timedelta], NoDecode] = Field(
        default_factory=dict
    )
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    tls_crl: Path | None = None
    tls_mutual: bool = True
    tls_only: bool = True
    tls_port: int = Field(default=DEFAULT_TLS_PORT, ge=0, le=MAX_PORT)
    listener_name: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,16}$")
    max_associations: int = Field(default=16, ge=1)
    max_associations_per_caller: int = Field(default=8, ge=1)
    max_calls_per_minute: int = Field(default=1200, ge=0)
    max_pdu: int = Field(default=262_144, ge=4096)
    max_instance_bytes: int = Field(default=2**30, ge=1)
    native_store: bool = True
    min_free_bytes: int = Field(default=2**30, ge=0)
    duplicate: Duplicate = Duplicate.QUARANTINE
    heir_of_all: bool = False
    log_format: LogFormat = "json"
    patient_key_secret: SecretStr | None = Field(
        default=None, min_length=MIN_SECRET_LENGTH
    )
    patient_key_secret_file: Path | None = None
    database_password_file: Path | None = None
    store_url: str | None = Field(default=None, pattern=r"^s3://[^/?#]+(/[^?#]*)?$")
    store_endpoint: str | None = None
    store_credentials_file: Path | None = None
    cache_bytes: int = Field(default=20 * 2**30, ge=0)

    @property
    def store_credentials(self) -> str | None:
        """KEY_ID:SECRET for the object store; None: as its client's environment says.

        Raises:
            SettingsError: The file cannot be read.
        """
        file = self.store_credentials_file
        return None if file is None else read_secret(file)

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the database; SQLite in the data folder by default.

        Raises:
            SettingsError: The file with its password cannot be read.
        """
        if self.database_url is None:
            return f"sqlite:///{self.data_dir / 'sentinode.db'}"
        if self.database_password_file is None:
            return self.database_url
        password = read_secret(self.database_password_file)
        url = make_url(self.database_url).set(password=password)
        return url.render_as_string(hide_password=False)

    @property
    def listener(self) -> Peer:
        """The listener as this host reaches it, whatever address it listens on."""
        return Peer(self.aet, local_host(self.host), self.port)

    @property
    def way_to_store(self) -> Peer:
        """Where the listener takes objects of a sender on this host."""
        if not (self.takes_tls and self.tls_only):
            return self.listener
        return Peer(self.aet, local_host(self.host), self.tls_port, tls=True)

    @property
    def takes_tls(self) -> bool:
        """Say whether there is a port for calls by TLS."""
        return self.tls_certificate is not None

    @property
    def tls(self) -> TlsFiles:
        """The certificates of this installation, and whose it trusts."""
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_ca, self.tls_crl)

    @property
    def caller(self) -> Caller:
        """Who we are for the peers that we call."""
        return Caller(self.aet, self.tls)

    @property
    def spool(self) -> Path:
        """Folder of instances and documents."""
        return self.data_dir / "spool"

    @field_validator("*", mode="before")
    @classmethod
    def _read_durations(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[str(info.field_name)]
        return _seconds(value) if field.annotation is timedelta else value

    @field_validator("quiet_periods", mode="before")
    @classmethod
    def _read_quiet_periods(cls, value: object) -> object:
        given = pairs(value)
        if not isinstance(given, Mapping):
            return given
        return {str(name): _seconds(seconds) for name, seconds in given.items()}

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("aet")
    @classmethod
    def _is_ae_title(cls, value: str) -> str:
        if not AE_TITLE_PATTERN.fullmatch(value):
            raise ValueError("is not an AE title of 1-16 characters")
        return value.strip()

    @field_validator("database_url")
    @classmethod
    def _is_database(cls, value: str | None) -> str | None:
        """Check the form alone; what SQLAlchemy says may quote the password."""
        try:
            backend = make_url(value).get_backend_name() if value else DATABASES[0]
        except (ArgumentError, ValueError):
            backend = ""
        if backend not in DATABASES:
            form = "postgresql+psycopg://USER@HOST/NAME or sqlite:///FILE"
            raise ValueError(f"is not a database URL of the form {form}")
        return value

    @field_validator("quiet_period")
    @classmethod
    def _not_negative(cls, value: timedelta) -> timedelta:
        if value < timedelta(0):
            raise ValueError("must not be negative")
        return value

    @model_validator(mode="after")
    def _has_whole_tls(self) -> Self:
        if (self.tls_certificate is None) is not (self.tls_key is None):
            raise ValueError(
                f"{ENV_PREFIX}TLS_CERTIFICATE and {ENV_PREFIX}TLS_KEY need each other"
            )
        if self.takes_tls and self.tls_mutual and self.tls_ca is None:
            raise ValueError(
                f"{ENV_PREFIX}TLS_CA is not set: whose clients may call? "
                f"{ENV_PREFIX}TLS_MUTUAL=false admits them without a certificate"
            )
        if self.tls_crl is not None and self.tls_ca is None:
            raise ValueError(f"{ENV_PREFIX}TLS_CRL needs {ENV_PREFIX}TLS_CA")
        bound = any(each.holder is not None for each in self.allow)
        if bound and not (self.takes_tls and self.tls_mutual):
            raise ValueError(
                f"{ENV_PREFIX}ALLOW names certificates, and no caller is asked for one"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put flags before environment, `sentinode.toml` and `up.json`."""
        del dotenv_settings, file_secret_settings
        toml = TomlConfigSettingsSource(settings_cls, toml_file=TOML_FILE)
        _demand_known(settings_cls, toml.toml_data)
        env = cast("EnvSettingsSource", env_settings)
        return (
            init_settings,
            env_settings,
            _OldNames(settings_cls, env.env_vars, ENV_PREFIX.lower()),
            toml,
            _OldNames(settings_cls, toml.toml_data, ""),
            _UpFile(settings_cls),
        )


class _OldNames(PydanticBaseSettingsSource):
    """What one source gives under names that settings had before."""

    def __init__(
        self, settings_cls: type[BaseSettings], given: Mapping[str, Any], prefix: str
    ) -> None:
        super().__init__(settings_cls)
        self._given = given
        self._prefix = prefix

    def get_field_value(
        self, field: FieldInfo, field_name: str
    ) -> tuple[Any, str, bool]:
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {}
        for old, new in RENAMED.items():
            value = self._given.get(f"{self._prefix}{old}")
            if value is not None and new in self.settings_cls.model_fields:
                _warn_of_old_name(old, new)
                found[new] = value
        return found


@cache
def _warn_of_old_name(old: str, new: str) -> None:
    names = (variable(old), variable(new))
    log.warning("%s is called %s now; the old name will be refused", *names)


def known(settings_cls: type[BaseSettings]) -> frozenset[str]:
    """Return the names of all settings, those of other processes and old ones too."""
    return ELSEWHERE.union(settings_cls.model_fields, RENAMED)


def _demand_known(settings_cls: type[BaseSettings], given: Iterable[str]) -> None:
    names = known(settings_cls)
    lines = [f"{TOML_FILE}: {_no_setting(n, names)}" for n in given if n not in names]
    if lines:
        raise SettingsError("\n".join(lines))


def _no_setting(name: str, names: Iterable[str]) -> str:
    other = meant(name, names)
    return f"{name} is no setting" + (f"; is {other} meant?" if other else "")


def ignored(settings_cls: type[BaseSettings]) -> dict[str, str | None]:
    """Return the variables with our prefix that are no setting, and do nothing.

    Each with the variable that was probably meant; None: it is like none of ours,
    and may be somebody else's.
    """
    names = known(settings_cls)
    source = EnvSettingsSource(settings_cls)
    prefix = ENV_PREFIX.lower()
    given = {
        name.removeprefix(prefix)
        for name in map(str.lower, source.env_vars)
        if name.startswith(prefix)
    }
    return {
        variable(name): None if other is None else variable(other)
        for name in sorted(given - names - BESIDE)
        for other in (meant(name, names),)
    }


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{ENV_PREFIX}{name.upper()}"


@cache
def warn_of_ignored(name: str, other: str | None) -> None:
    """Warn once of a variable that is no setting; `other` is the one that is meant."""
    hint = f"; is {other} meant?" if other else ""
    log.warning("%s is no setting and does nothing%s", name, hint)


class _UpFile(PydanticBaseSettingsSource):
    """What the last `sentinode up` on the data folder ran with."""

    def get_field_value(
        self, field: FieldInfo, field_name: str
    ) -> tuple[Any, str, bool]:
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        data_dir = self.current_state.get("data_dir")
        path = Path(data_dir).expanduser() / UP_FILE if data_dir else None
        if path is None or not path.is_file():
            return {}
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SettingsError(f"{path} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise SettingsError(f"{path} does not hold one JSON object")
        return values


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], **flags: Any) -> S:  # noqa: ANN401 - each flag has its own type
    """Read settings of one kind; a flag that is None was not given.

    Raises:
        SettingsError: A setting is missing or wrong, or the file names what is none;
            the message has one line for each, with its name and never its value.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for name, other in ignored(kind).items():
        warn_of_ignored(name, other)
    try:
        return kind(**given)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        lines = (
            f"{_variable(fault['loc'])} {_fault(fault['msg'])}" for fault in faults
        )
        raise SettingsError("\n".join(lines)) from None
    except ValueError as error:  # sentinode.toml is not TOML
        raise SettingsError(f"{TOML_FILE}: {error}") from error


def _variable(location: tuple[int | str, ...]) -> str:
    return f"{variable(str(location[0]) if location else '*')}:"


def _fault(message: str) -> str:
    if message == "Field required":
        return "is not set"
    return message.removeprefix("Value error, ")


def read_secret(path: Path) -> str:
    """Return the secret that a file holds, without the end of its line.

    Raises:
        SettingsError: The file cannot be read or is empty; the text never quotes it.
    """
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the secret in {path} cannot be read") from error
    if not secret:
        raise SettingsError(f"the secret in {path} is empty")
    return secret


def patient_secret(settings: NodeSettings) -> bytes:
    """Return the key of patient hashes; without a setting, one made once per folder.

    The file is readable by its owner alone. Whoever has the key can test guesses
    of Patient IDs, whoever lost it cannot link old studies to a patient any more.
    """
    if settings.patient_key_secret is not None:
        return settings.patient_key_secret.get_secret_value().encode()
    if settings.patient_key_secret_file is not None:
        secret = read_secret(settings.patient_key_secret_file)
        if len(secret) < MIN_SECRET_LENGTH:
            raise SettingsError(
                f"{ENV_PREFIX}PATIENT_KEY_SECRET_FILE: holds fewer than "
                f"{MIN_SECRET_LENGTH} characters"
            )
        return secret.encode()
    if settings.store_url is not None:
        raise SettingsError(
            f"{ENV_PREFIX}PATIENT_KEY_SECRET_FILE: is not set; hosts that share an "
            "object store must share the key of patient hashes"
        )
    path = settings.data_dir / PATIENT_KEY_FILE
    if not path.exists():
        create_secret(path)
    return bytes.fromhex(path.read_text(encoding="ascii").strip())


def create_secret(path: Path) -> None:
    """Write a new key whole or not at all; the first of several processes wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()
