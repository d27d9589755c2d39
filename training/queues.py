"""Names of the trainer's queue and tasks; light enough for beat to import."""

from typing import Final

TRAINING: Final = "training"

RETRAIN: Final = "training.tasks.retrain_due"
SHADOW: Final = "training.tasks.shadow_pending"
DRIFT: Final = "training.tasks.watch_drift"
EVERY: Final = (RETRAIN, SHADOW, DRIFT)
