"""Settings of the queue, the workers and the command line."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from dicom_node.destination import Credentials, Destination, WebService
from dicom_node.findings import StageTwo
from dicom_node.report.device import DEFAULT_OUTPUTS, Output
from dicom_node.settings import (
    ENV_PREFIX,
    Listed,
    Network,
    NodeSettings,
    PeerText,
    pairs,
    read_secret,
)
from dicom_node.study import MAX_PORT, UID_PATTERN, Peer
from dicom_node.syslog import Collector, Identity
from worker import webhook
from worker.webhook import LOOPBACK

LEASE_MARGIN: Final = timedelta(seconds=30)
MIN_VISIBILITY: Final = timedelta(hours=1)
VISIBILITY_FACTOR: Final = 2
SOCKET_PATH_LIMIT: Final = 100
"""sun_path holds 108 bytes on Linux; longer data folders get a socket elsewhere."""


BROKER_SCHEMES: Final = ("redis", "rediss", "redis+socket", "sentinel", "amqp", "amqps")
ALL: Final = "all"
DEFAULT_HTTP_PORT: Final = 11180


def _network(value: object) -> object:
    return ip_network(value, strict=False) if isinstance(value, str) else value


def _service(value: object) -> object:
    return WebService.parse(value) if isinstance(value, str) else value


def _collector(value: object) -> object:
    return Collector.parse(value) if isinstance(value, str) else value


CollectorText = Annotated[Collector, BeforeValidator(_collector), PlainSerializer(str)]
NetworkText = Annotated[Network, BeforeValidator(_network), PlainSerializer(str)]
ServiceText = Annotated[WebService, BeforeValidator(_service), PlainSerializer(str)]


class WorkerSettings(NodeSettings):
    """Settings of every process but the listener, which reads `NodeSettings`.

    `broker_url` unset means the broker that `sentinode up` embeds; one that speaks
    Redis's protocol or AMQP 0-9-1 will do; its password may stand in
    `broker_password_file`. `analysis_time_limit` and
    `delivery_time_limit` are hard: the process is killed and its claim expires.
    `resend_after` is how long a message may wait before the sweep sends another.
    `bulk_ahead` is how many studies of a bulk reprocessing may wait before a live one;
    twice the analysis processes of all hosts keep them busy.
    `query` is the archive's query/retrieve AE, whose counts must agree with ours before
    a study is analysed; unset, nobody is asked. `complete_early` ends the wait for a
    study as soon as the rectangle and the phases that the model needs are there.
    `retention_days` after its last object a study's images are purged; unset: never.
    `device_uid` signs every report; unset, it is derived from the patient key, which
    all processes of an installation share. `station` is printed in reports.
    `roi_overlays` takes regions drawn in overlay planes of the images for rectangles.
    `routing` is a file of rules (see `dicom_node.routing`); it is read anew when it
    changes. `require_phase` holds a study whose marked phase is its only one; `readers`
    says what becomes of two readers who agree but for the edges of their rectangles.

    `itc_is_positive` is the site's rule for isolated tumour cells; `stage_two` says
    whether stage II waits for the dissection. A result that comes without a study
    belongs to one whose MRI is at most `slnd_window_days` older than the dissection.
    HL7 is off without `hl7_port`; without `hl7_allow` only this host may call.
    `hl7_issuers` gives assigning authorities (PID-3.4) their DICOM issuer of patient
    ID; `hl7_words` is a table of the site's words (see `dicom_node.vocabulary`).
    `outputs` are the kinds of documents that a PACS gets; the SR is always one.

    `stow` are DICOMweb services that get the results too. What they ask for to let us
    in stands in files: one bearer token, or USER:PASSWORD, for all of them, so they
    must be on one host. `commit` names the AE titles that are asked for storage
    commitment, or is "all". A report of it is waited for `commit_wait` on the same
    association, and is asked for again after `commit_timeout`. A peer has
    `answer_timeout` to answer each message. A delivery that failed is tried again after
    `retry_after`, then after 5, 15 and 60 times that, for `give_up_after`.

    The status page and the metrics are served on `http_port`; `up` chooses one when it
    is unset, 0 is none. Whoever calls from another host must know what stands in
    `http_token_file`. Faults are posted to `webhook_url`, signed with the content of
    `webhook_secret_file`; `backlog_after` is how long a study may be queued, or a
    delivery be due, before that is one.

    The audit trail is sent to `audit_syslog`, a collector as tls://, tcp:// or
    udp://HOST:PORT; `audit_syslog_ca_file` says whom to trust, the certificate and its
    key who we are.
    """

    broker_url: str | None = None
    broker_password_file: Path | None = None
    models_dir: Path | None = None
    workers: int = Field(default=1, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    sweep_interval: timedelta = timedelta(seconds=0.5)
    analysis_time_limit: timedelta = timedelta(minutes=2)
    delivery_time_limit: timedelta = timedelta(minutes=5)
    resend_after: timedelta = timedelta(minutes=1)
    query: PeerText | None = None
    query_timeout: timedelta = timedelta(seconds=10)
    complete_early: bool = True
    bulk_ahead: int = Field(default=8, ge=1)
    max_attempts: int = Field(default=3, ge=1)
    retention_days: float | None = Field(default=None, gt=0)
    device_uid: str | None = Field(default=None, pattern=rf"^{UID_PATTERN.pattern}$")
    station: str | None = None
    roi_overlays: bool = False
    require_phase: bool = False
    routing: Path | None = None
    readers: Literal["hold", "mean"] = "hold"
    outputs: Annotated[tuple[Output, ...], NoDecode, Listed] = DEFAULT_OUTPUTS
    itc_is_positive: bool = False
    stage_two: StageTwo = StageTwo.ON_SLND
    slnd_window_days: int = Field(default=180, ge=0)
    hl7_port: int | None = Field(default=None, ge=1, le=MAX_PORT)
    hl7_host: str = "0.0.0.0"  # noqa: S104 - for the hospital network, by allow-list
    hl7_allow: Annotated[tuple[NetworkText, ...], NoDecode, Listed] = ()
    hl7_tls_certificate: Path | None = None
    hl7_tls_key: Path | None = None
    hl7_tls_client_ca: Path | None = None
    hl7_words: Path | None = None
    hl7_issuers: Annotated[Mapping[str, str], NoDecode, BeforeValidator(pairs)] = Field(
        default_factory=dict
    )
    hl7_processing_id: str = "P"
    hl7_max_bytes: int = Field(default=65_536, ge=1024)
    hl7_frame_timeout: timedelta = timedelta(seconds=30)
    hl7_idle_timeout: timedelta = timedelta(hours=1)

    stow: Annotated[tuple[ServiceText, ...], NoDecode, Listed] = ()
    stow_token_file: Path | None = None
    stow_password_file: Path | None = None
    stow_ca_file: Path | None = None
    commit: Annotated[tuple[str, ...], NoDecode, Listed] = ()
    commit_wait: timedelta = timedelta(seconds=3)
    commit_timeout: timedelta = timedelta(hours=1)
    answer_timeout: timedelta = timedelta(minutes=1)
    retry_after: timedelta = timedelta(minutes=1)
    give_up_after: timedelta = timedelta(days=14)

    http_port: int | None = Field(default=None, ge=0, le=MAX_PORT)
    http_host: str = "127.0.0.1"
    http_token_file: Path | None = None
    webhook_url: str | None = Field(default=None, repr=False)
    webhook_secret_file: Path | None = None
    audit_syslog: CollectorText | None = None
    audit_syslog_ca_file: Path | None = None
    audit_syslog_certificate: Path | None = None
    audit_syslog_key: Path | None = None
    backlog_after: timedelta = timedelta(minutes=30)

    @field_validator("broker_url")
    @classmethod
    def _is_a_broker(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in BROKER_SCHEMES:
            names = ", ".join(f"{each}://" for each in BROKER_SCHEMES)
            raise ValueError(f"must begin with one of {names}")
        return value

    @field_validator("outputs")
    @classmethod
    def _has_report(cls, value: tuple[Output, ...]) -> tuple[Output, ...]:
        if Output.SR not in value:
            raise ValueError("must name SR: a map without its report says too little")
        return value

    @field_validator("webhook_url")
    @classmethod
    def _is_safe(cls, value: str | None) -> str | None:
        return None if value is None else webhook.check_url(value)

    @model_validator(mode="after")
    def _serves_no_stranger(self) -> Self:
        if self.http_host not in LOOPBACK and self.http_token_file is None:
            raise ValueError("HTTP beyond this host needs SENTINODE_HTTP_TOKEN_FILE")
        return self

    @model_validator(mode="after")
    def _keeps_secrets(self) -> Self:
        """Let no secret reach another host than the one it is for, nor the network."""
        if self.stow_token_file is None and self.stow_password_file is None:
            return self
        if self.stow_token_file is not None and self.stow_password_file is not None:
            raise ValueError("give a STOW token file or a password file, not both")
        hosts = {service.host for service in self.stow}
        if len(hosts) > 1:
            raise ValueError("STOW credentials of one host would be sent to another")
        open_services = [each for each in self.stow if not each.is_encrypted]
        if open_services and not hosts <= LOOPBACK:
            raise ValueError("STOW credentials need https: http shows them to anybody")
        return self

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """Where results go."""
        return (*self.pacs, *self.stow)

    @property
    def stow_credentials(self) -> Credentials:
        """How the DICOMweb services know us."""
        return Credentials(
            self.stow_token_file, self.stow_password_file, self.stow_ca_file
        )

    @property
    def audit_identity(self) -> Identity:
        """Whom the sender of the audit trail trusts, and who it is."""
        return Identity(
            self.audit_syslog_ca_file,
            self.audit_syslog_certificate,
            self.audit_syslog_key,
        )

    def commits(self, destination: Destination) -> bool:
        """Say whether a destination is asked for storage commitment."""
        if not isinstance(destination, Peer):
            return False
        return ALL in self.commit or destination.ae_title in self.commit

    @property
    def broker(self) -> str:
        """URL of the broker that Celery connects to.

        Raises:
            SettingsError: The file with its password cannot be read.
        """
        if self.broker_url is None:
            return f"redis+socket://{self.broker_socket}"
        if self.broker_password_file is None:
            return self.broker_url
        url = urlsplit(self.broker_url)
        user, _, host = url.netloc.rpartition("@")
        password = quote(read_secret(self.broker_password_file), safe="")
        name = user.partition(":")[0]
        return url._replace(netloc=f"{name}:{password}@{host}").geturl()

    @property
    def broker_options(self) -> dict[str, int]:
        """What every consumer of a broker must agree on, the trainer too.

        Redis knows no lost consumer: a message that is not acknowledged within the
        visibility timeout goes to another worker, whoever holds it, and any process
        with a shorter timeout does that to all. So it outlives every task by far; the
        sweep does not wait for it. A broker that speaks AMQP has no such timeout.
        """
        longest = max(self.analysis_time_limit, self.delivery_time_limit)
        timeout = max(MIN_VISIBILITY, VISIBILITY_FACTOR * longest)
        return {"visibility_timeout": round(timeout.total_seconds())}

    @property
    def broker_socket(self) -> Path:
        """Unix socket of the embedded broker, short enough for the kernel."""
        path = self.data_dir.resolve() / "broker.sock"
        if len(str(path)) <= SOCKET_PATH_LIMIT:
            return path
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"sentinode-{digest}" / "broker.sock"

    @property
    def models(self) -> Path:
        """Folder of the models: NAME/VERSION/manifest.json."""
        return self.models_dir or self.data_dir / "models"

    @property
    def retention(self) -> timedelta | None:
        """Age from which the images of a study are purged; None: they stay."""
        days = self.retention_days
        return None if days is None else timedelta(days=days)

    @property
    def slnd_window(self) -> timedelta:
        """How long after the MRI a dissection still belongs to it."""
        return timedelta(days=self.slnd_window_days)

    @property
    def lease(self) -> timedelta:
        """How long a claim on a study holds: longer than its task can live."""
        return _outliving(self.analysis_time_limit)

    @property
    def delivery_lease(self) -> timedelta:
        """How long a claim on deliveries holds: longer than its task can live."""
        return _outliving(self.delivery_time_limit)


def _outliving(limit: timedelta) -> timedelta:
    return limit + min(limit, LEASE_MARGIN)


def child_environment(flags: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child process: ours, overruled by our flags."""
    given = {f"{ENV_PREFIX}{name.upper()}": value for name, value in flags.items()}
    return {**os.environ, **given}  # noqa: TID251 - handed on unread


def cache_dir() -> Path:
    """Return the user's folder of things that can be made again (XDG)."""
    base = os.environ.get("XDG_CACHE_HOME", "")  # noqa: TID251 - the one reader
    return (Path(base) if base else Path.home() / ".cache") / "sentinode"
