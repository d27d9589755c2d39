"""Settings of the retraining loop; every minimum is one, so that a site can wait."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from dicom_node.settings import Listed
from training.config import PRESETS
from training.policy import Policy
from worker.settings import WorkerSettings

CRON_FIELDS: Final = 5


class TrainingSettings(WorkerSettings):
    """Settings of the trainer, beside those of the site that it works for.

    `retrain_schedule` is when the triggers are looked at, as cron writes it (minute,
    hour, day of month, month, day of week; UTC); `shadow_interval` and
    `drift_interval` are how often live cases are scored and compared.

    A first model needs `retrain_first_cases` labelled cases with
    `retrain_first_positives` among them, stage II `retrain_nsln_cases` SLN-positive
    ones. A new one is trained after `retrain_cases` new verified cases with
    `retrain_positives` positive, or a confirmed drift alarm, not sooner than
    `retrain_days` after the last; or after `retrain_every_days` in any case.

    `retrain_automatic` lets a challenger that passes every check serve without a
    person; its checks then need `retrain_holdout` held-out cases and, for stage II,
    `retrain_nsln_automatic` SLN-positive training cases. `retrain_recipe` is a preset;
    `retrain_centre` and `retrain_external` name centres as `cohort freeze` does.
    Reports go to `retrain_webhook`, signed when a file with a secret is given.
    """

    retrain_schedule: str = "0 2 * * *"
    retrain_recipe: str = "default"
    retrain_folds: int = Field(default=5, ge=2)
    retrain_centre: str | None = None
    retrain_external: Annotated[tuple[str, ...], NoDecode, Listed] = ()
    retrain_first_cases: int = Field(default=300, ge=1)
    retrain_first_positives: int = Field(default=70, ge=1)
    retrain_nsln_cases: int = Field(default=200, ge=1)
    retrain_cases: int = Field(default=50, ge=1)
    retrain_positives: int = Field(default=12, ge=1)
    retrain_days: float = Field(default=7, ge=0)
    retrain_every_days: float | None = Field(default=None, gt=0)
    retrain_automatic: bool = False
    retrain_holdout: Annotated[int, Field(ge=4)] = 200
    retrain_nsln_automatic: int = Field(default=400, ge=1)
    retrain_attempts: int = Field(default=3, ge=1)
    retrain_lease: timedelta = timedelta(minutes=10)
    retrain_time_limit: timedelta = timedelta(days=2)
    retrain_webhook: str | None = Field(default=None, pattern=r"^https?://\S+$")
    retrain_webhook_secret_file: Path | None = None
    shadow_interval: timedelta = timedelta(minutes=5)
    drift_interval: timedelta = timedelta(days=1)

    @field_validator("retrain_schedule")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        if len(value.split()) != CRON_FIELDS:
            raise ValueError("is not a schedule of five fields, as 0 2 * * *")
        return value

    @field_validator("retrain_recipe")
    @classmethod
    def _is_a_preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"is none of {', '.join(sorted(PRESETS))}")
        return value

    @model_validator(mode="after")
    def _lease_is_renewable(self) -> Self:
        if self.retrain_lease < timedelta(seconds=5):
            raise ValueError("retrain_lease must be 5 seconds or longer")
        return self

    @property
    def policy(self) -> Policy:
        """The numbers of the gate; only what a site may choose differs from ours."""
        return Policy(
            automatic=self.retrain_automatic,
            automatic_holdout=self.retrain_holdout,
            nsln_automatic=self.retrain_nsln_automatic,
        )

    @property
    def workshop(self) -> Path:
        """Folder of snapshots and runs of the trainer."""
        return self.data_dir / "training"
