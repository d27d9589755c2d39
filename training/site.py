"""The installation that models are registered, judged and watched in."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicom_node import db
from dicom_node.db import Sessions
from dicom_node.shared_spool import spool_of
from dicom_node.spool import Spool
from training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class Site:
    """Database, kept crops, models and settings of one installation."""

    settings: TrainingSettings
    sessions: Sessions
    spool: Spool

    @property
    def models(self) -> Path:
        """Folder of the installed models."""
        return self.settings.models


@contextmanager
def opened(settings: TrainingSettings) -> Iterator[Site]:
    """Open the database of an installation, which must exist.

    Raises:
        SettingsError: There is no installation in the data folder.
    """
    engine = db.connect(settings.database)
    db.demand_existing(engine, settings.data_dir)
    try:
        yield Site(settings, db.writing(engine), spool_of(settings))
    finally:
        engine.dispose()
