"""What the settings of a site decide about the choice of a slice."""

from dicom_node.selection import Rules
from worker.settings import WorkerSettings


def site_rules(settings: WorkerSettings) -> Rules:
    """Return the rules that every choice of this site follows."""
    return Rules(
        require_phase=settings.require_phase,
        readers=settings.readers,
        overlays=settings.roi_overlays,
    )
