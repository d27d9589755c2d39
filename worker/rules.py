"""What a site decides: which studies, which slice, which destinations."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from dicom_node import images, routing
from dicom_node.completion import IMAGES
from dicom_node.errors import SettingsError, TransientError, UnreadableObjectError
from dicom_node.routing import EVERYTHING, Routing, RoutingRules
from dicom_node.selection import Rules
from dicom_node.study import StoredInstance
from worker.settings import WorkerSettings


class RulesUnusableError(TransientError):
    """The file of routing rules is faulty now; studies wait until it is mended."""


def site_rules(settings: WorkerSettings, routed: Routing = EVERYTHING) -> Rules:
    """Return the rules that every choice of a slice follows."""
    return Rules(
        require_phase=settings.require_phase,
        readers=settings.readers,
        overlays=settings.roi_overlays,
        phase=routed.phase,
    )


def route(
    settings: WorkerSettings,
    calling_ae: str,
    stored: Iterable[StoredInstance],
    kept: Iterable[Path] = (),
) -> Routing:
    """Say what the site's routing rules make of a study.

    Args:
        settings: The site's.
        calling_ae: Who sent its first object.
        stored: Its instances, with absolute paths; one image of each series is read.
        kept: Slices that outlived the images, read where no image is left.

    Raises:
        RulesUnusableError: The file of rules is faulty.
    """
    if settings.routing is None:
        return EVERYTHING
    first: dict[str, Path] = {}
    for one in stored:
        if one.sop_class_uid in IMAGES:
            first.setdefault(one.series_uid, one.path)
    headers = []
    for path in first.values() or kept:
        try:
            headers.append(images.read_header(path))
        except UnreadableObjectError:
            continue  # what cannot be read matches no rule
    return routing.route(_rules(settings.routing), calling_ae, headers)


def _rules(path: Path) -> RoutingRules:
    try:
        return _parsed(path, path.stat().st_mtime_ns)
    except (OSError, SettingsError) as error:
        raise RulesUnusableError(
            f"routing rules: {error}; mend the file, `sentinode rules test` checks it"
        ) from error


@lru_cache(maxsize=4)
def _parsed(path: Path, changed_ns: int) -> RoutingRules:
    """Parse a file once for each of its versions."""
    del changed_ns
    return routing.parse(path)
