"""What the trainer's queue does: train when due, shadow, watch. Thin edges only."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from celery import shared_task

from dicom_node.db import now
from dicom_node.errors import NodeError, StateError
from dicom_node.findings import Stage
from dicom_node.settings import load
from training import monitor, queues, retrain, shadow
from training.settings import TrainingSettings
from training.site import Site, opened

log = logging.getLogger(__name__)


@cache
def _settings() -> TrainingSettings:
    """Read the settings once in each process."""
    return load(TrainingSettings)


@contextmanager
def _site() -> Iterator[Site]:
    torch.set_num_threads(1)  # the service on the same host goes first
    with opened(_settings()) as site:
        yield site


@shared_task(name=queues.RETRAIN, ignore_result=True)
def retrain_due() -> None:
    """Train each stage that is due; stage I first, stage II starts from it."""
    with _site() as site:
        for stage in Stage:
            try:
                outcome = retrain.retrain(site, stage)
            except StateError as error:
                log.info("no retraining", extra={"why": str(error)})
                return
            extra = {"stage": stage, "model": outcome.model, "why": outcome.why}
            log.info("retraining looked at", extra=extra)


@shared_task(name=queues.SHADOW, ignore_result=True)
def shadow_pending() -> None:
    """Score the live cases that shadows have not seen."""
    with _site() as site:
        shadow.score_pending(site)


@shared_task(name=queues.DRIFT, ignore_result=True)
def watch_drift() -> None:
    """Write a drift report of each stage."""
    with _site() as site:
        for stage in Stage:
            try:
                found = monitor.observe(site, stage, now())
            except NodeError as error:
                extra = {"stage": stage, "error": str(error)}
                log.warning("no drift report", extra=extra)
                continue
            alarms = [one.statistic for one in found if one.alarm]
            if alarms:
                log.warning("drift alarm", extra={"stage": stage, "alarms": alarms})
