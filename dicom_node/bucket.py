"""Objects in a bucket of an S3-compatible store, under the names that spool files have.

Whoever answers has kept the promise: a put that returned is durable. A new object is
put only if there is none of its name (conditional write), so that of two listeners one
wins. Nothing is cached here, and no message holds more than the kind of an error.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from dicom_node.errors import SpoolFullError

CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 60
ATTEMPTS: Final = 2
REGION: Final = "us-east-1"
"""What stores of one's own call themselves when nobody asks."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bucket is and how it knows us: by a key, or as the environment says."""

    url: str
    endpoint: str | None = None
    key_id: str | None = None
    secret: str | None = None

    def __repr__(self) -> str:
        return f"Address({self.url!r})"


class Bucket:
    """A bucket, or what lies below a prefix in it.

    Every method raises SpoolFullError when the store does not answer or refuses: come
    back later.
    """

    def __init__(self, address: Address) -> None:
        import fsspec  # noqa: PLC0415 - a tenth of a second, for a site with a store

        protocol, _, root = address.url.partition("://")
        self._root = root.strip("/")
        self._files: Any = fsspec.filesystem(
            protocol,
            key=address.key_id,
            secret=address.secret,
            client_kwargs={"endpoint_url": address.endpoint, "region_name": REGION}
            if address.endpoint
            else {},
            config_kwargs={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "read_timeout": READ_TIMEOUT_S,
                "retries": {"max_attempts": ATTEMPTS},
            },
            use_listings_cache=False,
            skip_instance_cache=True,  # a process that forked opens its own
        )

    def put_new(self, path: Path, content: bytes) -> bool:
        """Store an object unless its name is taken; say whether it was stored."""
        key = self._key(path)

        def put() -> bool:
            try:
                self._files.pipe_file(key, content, mode="create")
            except OSError:
                if self._files.exists(key):
                    return False
                raise
            return True

        return _answered(put)

    def put(self, path: Path, content: bytes) -> None:
        """Store an object, in place of one of its name."""
        _answered(lambda: self._files.pipe_file(self._key(path), content))

    def copy(self, source: Path, target: Path) -> None:
        """Copy an object within the store.

        Raises:
            FileNotFoundError: There is no such object.
        """
        keys = (self._key(source), self._key(target))
        _answered(lambda: self._files.cp_file(*keys))

    def download(self, path: Path, target: Path) -> None:
        """Write an object to a local file, whole; one that exists is replaced.

        Raises:
            FileNotFoundError: There is no such object.
        """
        _answered(lambda: self._files.get_file(self._key(path), str(target)))

    def changed_at(self, path: Path) -> datetime | None:
        """Return when an object was stored, None when there is none."""

        def look() -> datetime | None:
            try:
                return _time(self._files.info(self._key(path)))
            except FileNotFoundError:
                return None

        return _answered(look)

    def remove(self, path: Path) -> bool:
        """Remove an object for good; say whether there was one."""
        key = self._key(path)

        def remove() -> bool:
            if not self._files.exists(key):
                return False
            self._files.rm_file(key)
            return True

        return _answered(remove)

    def files(self, below: Path) -> Iterator[tuple[Path, datetime]]:
        """Yield every object below a folder, and when it was stored."""
        found = _answered(lambda: self._files.find(self._key(below), detail=True))
        for key, info in found.items():
            if info["type"] == "file":  # an empty folder is listed as itself
                yield Path(key).relative_to(self._root), _time(info)

    def _key(self, path: Path) -> str:
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("a path of the spool is relative and has no '..'")
        return f"{self._root}/{path.as_posix()}"


def _time(info: dict[str, Any]) -> datetime:
    found: datetime = info["LastModified"]
    return found.astimezone(UTC)


def _answered(call: Callable[[], T]) -> T:
    """Turn whatever a store answers but its word into: come back later."""
    try:
        return call()
    except FileNotFoundError:
        raise
    except Exception as error:  # each backend has errors of its own
        why = type(error).__name__
        raise SpoolFullError(f"the object store cannot be used: {why}") from error
