"""The device that reports: one installation of Sentinode."""

from dataclasses import dataclass

from dicom_node.own import MANUFACTURER, MODEL_NAME


@dataclass(frozen=True, slots=True)
class Device:
    """Who signs the reports of one installation.

    `uid` is the Device Observer UID: one fixed UID for each installation, from its
    configuration. `serial` is at most 64 characters; `station`, if any, says where
    the installation stands.
    """

    uid: str
    serial: str
    software_version: str
    station: str | None = None
    name: str = MODEL_NAME
    manufacturer: str = MANUFACTURER
    model_name: str = MODEL_NAME
