"""Settings of the queue, the workers and the command line."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from dicom_node.report.device import DEFAULT_OUTPUTS, Output
from dicom_node.settings import ENV_PREFIX, NodeSettings, split
from dicom_node.study import UID_PATTERN

LEASE_MARGIN: Final = timedelta(seconds=30)
SOCKET_PATH_LIMIT: Final = 100
"""sun_path holds 108 bytes on Linux; longer data folders get a socket elsewhere."""


class WorkerSettings(NodeSettings):
    """Settings of every process but the listener, which reads `NodeSettings`.

    `broker_url` unset means the broker that `sentinode up` embeds; any
    Redis-compatible URL is accepted. `analysis_time_limit` and
    `delivery_time_limit` are hard: the process is killed and its claim expires.
    `resend_after` is how long a message may wait before the sweep sends another.
    `device_uid` signs every report; unset, it is derived from the patient key, which
    all processes of an installation share. `station` is printed in reports.
    `outputs` are the kinds of documents that a PACS gets; the SR is always one.
    """

    broker_url: str | None = None
    models_dir: Path | None = None
    workers: int = Field(default=1, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    sweep_interval: timedelta = timedelta(seconds=0.5)
    analysis_time_limit: timedelta = timedelta(minutes=2)
    delivery_time_limit: timedelta = timedelta(minutes=5)
    resend_after: timedelta = timedelta(minutes=1)
    max_attempts: int = Field(default=3, ge=1)
    device_uid: str | None = Field(default=None, pattern=rf"^{UID_PATTERN.pattern}$")
    station: str | None = None
    outputs: Annotated[tuple[Output, ...], NoDecode, BeforeValidator(split)] = (
        DEFAULT_OUTPUTS
    )

    @field_validator("outputs")
    @classmethod
    def _has_report(cls, value: tuple[Output, ...]) -> tuple[Output, ...]:
        if Output.SR not in value:
            raise ValueError("must name SR: a map without its report says too little")
        return value

    @property
    def broker(self) -> str:
        """URL of the broker that Celery connects to."""
        return self.broker_url or f"redis+socket://{self.broker_socket}"

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
