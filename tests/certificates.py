"""Certificates of a small hospital: an authority, its hosts, and who is not of it."""

import datetime as dt
import subprocess
from dataclasses import dataclass
from pathlib import Path

import trustme

PAST = dt.datetime(2020, 1, 2, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Hospital:
    """An authority that certifies the hosts of one hospital."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = trustme.CA(key_type=trustme.KeyType.RSA)
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)
        self.ours = self.pair("sentinode", "127.0.0.1", "localhost", "::1")
        self.peer = self.pair("peer", "127.0.0.1", "localhost", "pacs.hospital.test")
        self.elsewhere = self.pair("elsewhere", "elsewhere.hospital.test")
        self.expired = self.pair("expired", "127.0.0.1", not_after=PAST)
        stranger = trustme.CA()
        self.strange_ca = folder / "strange-ca.pem"
        stranger.cert_pem.write_to_path(self.strange_ca)
        self.stranger = self.pair("stranger", "127.0.0.1", authority=stranger)

    def pair(self, name: str, *names: str, authority=None, not_after=None) -> Pair:
        """Issue a certificate for names; the common name is `name`.hospital.test."""
        rsa = name in {"sentinode", "peer"}  # as hospitals have them; others are quick
        issued = (authority or self.authority).issue_cert(
            *names,
            common_name=f"{name}.hospital.test",
            not_after=not_after,
            key_type=trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA,
        )
        made = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(made.certificate)
        issued.private_key_pem.write_to_path(made.key)
        made.key.chmod(0o600)
        return made

    def revoking(self, revoked: Pair) -> Path:
        """Return a list of revoked certificates with one in it."""
        key = self.folder / "ca.key"
        self.authority.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        (self.folder / "index.txt").write_text("")
        (self.folder / "crlnumber").write_text("01\n")
        config = self.folder / "openssl.cnf"
        config.write_text(
            f"[ca]\ndefault_ca = it\n[it]\ndatabase = {self.folder}/index.txt\n"
            f"crlnumber = {self.folder}/crlnumber\ndefault_md = sha256\n"
            "default_crl_days = 30\n"
        )
        ca = ("-config", config, "-keyfile", key, "-cert", self.ca)
        crl = self.folder / "crl.pem"
        for what in (("-revoke", revoked.certificate), ("-gencrl", "-out", crl)):
            subprocess.run(
                ["openssl", "ca", *map(str, (*ca, *what))],
                check=True,
                capture_output=True,
            )
        return crl
