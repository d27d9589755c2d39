"""What a site decides: which studies, which slice, which destinations."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from pydicom import Dataset

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
        stored: Its instances, with absolute paths; see `headers`.
        kept: Slices that outlived the images, read where no image is left.

    Raises:
        RulesUnusableError: The file of rules is faulty.
    """
    if settings.routing is None:
        return EVERYTHING
    read = headers(stored, lambda one: one.path, kept)
    return routing.route(_rules(settings.routing), calling_ae, read)


def headers(
    stored: Iterable[StoredInstance],
    located: Callable[[StoredInstance], Path],
    kept: Iterable[Path] = (),
) -> list[Dataset]:
    """Read what rules look at: the first readable image of each series.

    What cannot be read matches no rule. Only what is looked at is located.
    """
    found: dict[str, Dataset] = {}
    for one in stored:
        if one.sop_class_uid in IMAGES and one.series_uid not in found:
            with suppress(UnreadableObjectError):
                found[one.series_uid] = images.read_header(located(one))
    return list(found.values()) or list(_readable(kept))


def _readable(paths: Iterable[Path]) -> Iterator[Dataset]:
    for path in paths:
        with suppress(UnreadableObjectError):
            yield images.read_header(path)


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
