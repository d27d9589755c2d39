"""The cascade that is in service: which models, on which device, loaded when."""

import hashlib
import hmac
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

import dicom_node
import worker
from dicom_node import __version__
from dicom_node.db import Sessions
from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from dicom_node.report.device import Device
from dicom_node.settings import patient_secret
from worker import models, outcomes, weights
from worker.cascade import StageModel
from worker.case import SiteThreshold
from worker.outcomes import Activation
from worker.pipeline import Cascade
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)


class LoadedCascade:
    """Both active stages on this process's device, loaded on first use.

    A changed activation reloads the stage; a changed threshold needs no reload.
    """

    def __init__(self, models_dir: Path, device: torch.device) -> None:
        self._models = models_dir
        self._device = device
        self._loaded: dict[Stage, tuple[int, StageModel]] = {}

    def __call__(self, sessions: Sessions) -> Cascade:
        """Return what is in service now.

        Raises:
            SettingsError: A stage has no active model, or its files are missing.
            ModelIntegrityError: The weights are not those that were activated.
        """
        with sessions() as session:
            active = outcomes.activations(session)
            thresholds = outcomes.thresholds(session)
        return Cascade(
            sln=self._stage(Stage.SLN, active),
            nsln=self._stage(Stage.NSLN, active),
            site_thresholds={
                stage: SiteThreshold(*pair) for stage, pair in thresholds.items()
            },
        )

    def _stage(self, stage: Stage, active: Mapping[Stage, Activation]) -> StageModel:
        activation = models.in_service(stage, active)
        loaded = self._loaded.get(stage)
        if loaded is None or loaded[0] != activation.activation_id:
            folder = models.folder(self._models, activation.name, activation.version)
            model = weights.load_stage(folder, self._device)
            models.check_activated(model.manifest, activation)
            loaded = (activation.activation_id, model)
            self._loaded[stage] = loaded
            log.info("model loaded", extra={"model": model.manifest.reference})
        return loaded[1]


def signing_device(settings: WorkerSettings) -> Device:
    """Return the device that signs the reports of this installation."""
    digest = hmac.digest(patient_secret(settings), b"device observer", "sha256")
    derived = f"2.25.{int.from_bytes(digest[:16])}"
    return Device(
        uid=settings.device_uid or derived,
        serial=digest.hex()[:12],
        software_version=__version__,
        station=settings.station,
        code_sha256=code_sha256(),
        outputs=settings.outputs,
    )


@cache
def code_sha256() -> str:
    """Digest the program's own source: a version alone does not tell two builds apart.

    Read once for each process; the same for a checkout and for an installed package.
    """
    digest = hashlib.sha256()
    for package in (dicom_node, worker):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{root.name}/{path.relative_to(root).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def choose_device(wanted: str, index: int) -> torch.device:
    """Return the device of pool process number `index`: one process per GPU.

    Raises:
        SettingsError: CUDA is demanded and there is none.
    """
    count = torch.cuda.device_count() if wanted != "cpu" else 0
    if count:
        return torch.device("cuda", index % count)
    if wanted == "cuda":
        raise SettingsError("SENTINODE_DEVICE is cuda, but torch sees no CUDA device")
    return torch.device("cpu")
