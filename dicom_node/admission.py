"""Who may call: AE title and source address together.

An AE title is no authentication, and neither is an address; both together keep out
mistakes. A certificate, where one is bound to the title, is one; the firewall keeps
out the rest.
"""

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from dicom_node.settings import AllowedPeer, NodeSettings, unmapped
from dicom_node.study import Peer
from dicom_node.tls import Certificate

log = logging.getLogger(__name__)

OTHER = "other"


@dataclass(frozen=True, slots=True)
class Admission:
    """The peers that may open an association.

    Without an allow-list these are the AE titles of the PACS, each from the
    addresses that its host resolves to at the time of the call.
    """

    allow: tuple[AllowedPeer, ...]
    pacs: tuple[Peer, ...]
    own: str = ""
    monitors: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: NodeSettings) -> "Admission":
        """Return who may call by the settings."""
        return cls(settings.allow, settings.pacs, settings.aet, settings.monitors)

    def admits(
        self, calling_ae: str, address: str, certificate: Certificate | None = None
    ) -> bool:
        """Say whether a call by this AE title from this IP address is admitted.

        Args:
            calling_ae: Calling AE title.
            address: IP address of the caller.
            certificate: What it showed and we verified; None without TLS.
        """
        if self.allow:
            return any(
                each.admits(calling_ae, address, certificate) for each in self.allow
            )
        return any(
            peer.ae_title.strip() == calling_ae.strip()
            and str(unmapped(address)) in _addresses(peer.host)
            for peer in self.pacs
        )

    def known(self, calling_ae: str) -> str:
        """Return a calling AE title that the settings name, "other" for the rest."""
        title = calling_ae.strip()
        titles = {each.ae_title.strip() for each in self.allow}
        titles |= {each.ae_title.strip() for each in self.pacs}
        return title if title in titles | {self.own} else OTHER

    def may_verify(self, calling_ae: str, address: str) -> bool:
        """Say whether this is our own check of health, from this host or a monitor."""
        if calling_ae.strip() != self.own:
            return False
        source = unmapped(address)
        return source.is_loopback or any(
            str(source) in _addresses(host) for host in self.monitors
        )


def _addresses(host: str) -> Sequence[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        log.warning("the host of a peer cannot be resolved", extra={"host": host})
        return []
    return [str(unmapped(str(entry[4][0]))) for entry in found]
