"""The key of a site's pseudonyms: whoever has it can link them to patients."""

from pathlib import Path
from typing import Final

from dicom_node.errors import SettingsError
from dicom_node.settings import create_secret

MIN_LENGTH: Final = 16


def read_or_create(path: Path) -> bytes:
    """Return a site's key, made on first use and readable by its owner alone.

    With another key the same patients have other pseudonyms, other roles and other
    dates: the result is another data set.

    Raises:
        SettingsError: The file holds no key.
    """
    if not path.exists():
        create_secret(path)
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    if len(key) < MIN_LENGTH:
        raise SettingsError(
            f"{path} holds no key: at least {MIN_LENGTH} characters are needed"
        )
    return key
