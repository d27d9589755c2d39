"""The device that reports: one installation of Sentinode."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dicom_node.own import MANUFACTURER, MODEL_NAME

DIGEST_SHOWN: Final = 16
"""Hexadecimal digits of a digest that tell two builds apart."""


class Output(StrEnum):
    """A kind of document that a site may want; the SR is always written."""

    SR = "SR"
    SC = "SC"
    GSPS = "GSPS"
    PM = "PM"


DEFAULT_OUTPUTS: Final = (Output.SR, Output.SC)


@dataclass(frozen=True, slots=True)
class Device:
    """Who signs the reports of one installation.

    `uid` is the Device Observer UID: one fixed UID for each installation, from its
    configuration. `serial` is at most 64 characters; `station`, if any, says where
    the installation stands. `code_sha256` digests the program itself, so that two
    builds of one version can be told apart; "" when it is not known. `outputs` are
    the kinds of documents that it writes.
    """

    uid: str
    serial: str
    software_version: str
    station: str | None = None
    name: str = MODEL_NAME
    manufacturer: str = MANUFACTURER
    model_name: str = MODEL_NAME
    code_sha256: str = ""
    outputs: tuple[Output, ...] = DEFAULT_OUTPUTS

    @property
    def software_versions(self) -> list[str]:
        """The version, and the beginning of the code's digest when it is known."""
        code = self.code_sha256[:DIGEST_SHOWN]
        return [self.software_version, *([f"code sha256 {code}"] if code else [])]
