"""What the sides of a measurement share: secrets, keys and certificates, new for each run."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Material"]

_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Material:
    """Made once by the parent, in its own directory, and handed to every child."""

    directory: str
    shared_seed: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def make(self) -> None:
        """Write the certificates: one authority, and one each for a server and a client."""
        authority_key = ec.generate_private_key(ec.SECP256R1())
        authority = _certificate("benchmark authority", authority_key, None)
        self._write("authority", authority, authority_key)
        for name in ("server", "client"):
            key = ec.generate_private_key(ec.SECP256R1())
            self._write(name, _certificate(name, key, (authority, authority_key)), key)

    def _write(self, name: str, made: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        Path(self.certificate(name)).write_bytes(made.public_bytes(serialization.Encoding.PEM))
        Path(self.key(name)).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def certificate(self, name: str) -> str:
        """Return the file with a certificate: ``authority``, ``server`` or ``client``."""
        return str(Path(self.directory) / f"{name}.pem")

    def key(self, name: str) -> str:
        """Return the file with a private key."""
        return str(Path(self.directory) / f"{name}.key")

    def server_tls(self, *, mutual: bool = False) -> ssl.SSLContext:
        """Return the TLS settings of a server; ``mutual``: it also asks for a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.certificate("server"), self.key("server"))
        if mutual:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.certificate("authority"))
        return context

    def client_tls(self, *, mutual: bool = False) -> ssl.SSLContext:
        """Return the TLS settings of a client; ``mutual``: it also presents a certificate."""
        context = ssl.create_default_context(cafile=self.certificate("authority"))
        if mutual:
            context.load_cert_chain(self.certificate("client"), self.key("client"))
        return context


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=issuer is None,
                crl_sign=issuer is None,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if issuer is not None:
        names = [x509.IPAddress(ipaddress.ip_address(_HOST)), x509.DNSName("localhost")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[0].public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    return builder.sign(key if issuer is None else issuer[1], hashes.SHA256())
