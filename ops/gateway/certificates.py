"""Certificates of an authority of one's own: for the doors of an embedded platform, and for tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ops.pgbouncer.files import write

AUTHORITY = "ca"


@dataclass(frozen=True)
class Authority:
    """A key that signs certificates, and the folder where `NAME.pem` and `NAME.key` are."""

    folder: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    days: int

    def issue(self, name: str, *, names: Sequence[str]) -> None:
        """Write a certificate, and its key, which only their owner reads.

        Parameters:
            name: of the files.
            names: host names and addresses that it is for.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        found = (
            _builder(names[0], self.certificate.subject, key, self.days)
            .add_extension(x509.SubjectAlternativeName(list(map(_general, names))), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        _write(self.folder, name, found.sign(self.key, hashes.SHA256()), key)


def make_authority(folder: Path, *, days: int) -> Authority:
    """Make an authority, and write it to `ca.pem` and `ca.key`.

    Parameters:
        folder: where its files are.
        days: how long it, and what it issues, is valid.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = "mesctl"
    certificate = (
        _builder(name, _subject(name), key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_ONLY_SIGNS, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder, AUTHORITY, certificate, key)
    return Authority(folder, certificate, key, days)


_ONLY_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # The clock of who checks it may be behind.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    text = certificate.public_bytes(serialization.Encoding.PEM).decode()
    # Each appears complete, by a new name: that is what Envoy watches for, and then it reads both.
    write(folder, {f"{name}.key": pem.decode(), f"{name}.pem": text})
