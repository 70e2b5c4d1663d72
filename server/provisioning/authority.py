"""The server's own certificate authority: a key that is encrypted at rest, and the certificate that the server shows.

The authority signs one kind of certificate, the server's. Nodes hold no certificate: they authenticate with keys that the
operator approved (`members.py`). The authority's key is needed to renew the server's certificate and for nothing else; it
may lie on another machine meanwhile.

What never lives here: who takes part, signatures of kits.

Source:
    RFC 5280 (certificates: sections 4.2.1.1 to 4.2.1.12), RFC 8446 (TLS 1.3), RFC 5958 and RFC 8018 (encrypted
    keys), RFC 7914 (scrypt).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from server.home import ServerHome
from shared.errors import ConfigError
from shared.files import verify_owner_alone, write_atomically
from shared.provisioning.fields import is_address
from shared.provisioning.validity import CLOCK_SKEW, DAY, LONGEST_DAYS, verify_days

SHORTEST_PASSPHRASE: Final = 12
# Of scrypt, as OWASP advises: 128 MiB for each guess. Both PKCS 8 and PKCS 12, as this library writes them, can be guessed
# at with 2,048 rounds of a hash, which protects no passphrase that a person remembers.
_SCRYPT: Final = {"n": 2**17, "r": 8, "p": 1}
# Flower's own processes and the proxy reach the SuperLink over loopback.
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_SECRET: Final = 0o600
_NO_USAGE: Final = dict.fromkeys(
    (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    ),
    False,
)


@dataclass(frozen=True)
class Authority:
    """An authority that can sign.

    Attributes:
        certificate: What nodes trust.
        key: ECDSA on P-384. (private)
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def make_authority(host: str, *, now: int) -> Authority:
    """A new authority for ten years, from the system's CSPRNG.

    Args:
        host: Of the server, for the certificate's name.
        now: Seconds since 1970.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Tacit authority of {host}"[:64])])
    certificate = (
        _dated(now, now + LONGEST_DAYS * DAY)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        # It signs certificates of servers, and no other authority.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA384())
    )
    return Authority(certificate, key)


def server_certificate(
    authority: Authority, key: ec.EllipticCurvePublicKey, hosts: Sequence[str], *, days: int, now: int
) -> x509.Certificate:
    """A certificate for the server, good for TLS servers and nothing else.

    Args:
        authority: Signs it.
        key: The server's.
        hosts: DNS names and addresses, verified; those of loopback are added.
        days: How long it holds.
        now: Seconds since 1970.

    Raises:
        ConfigError: If it would outlive the authority.
    """
    until = verify_days(days, now=now, ends=ends(authority.certificate))
    names = [
        x509.IPAddress(ipaddress.ip_address(host)) if is_address(host) else x509.DNSName(host)
        for host in dict.fromkeys((*hosts, *LOOPBACK))
    ]
    authority_key = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _dated(now, until)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tacit server")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_key), critical=False)
        .sign(authority.key, SHA384())
    )


def write_authority(home: ServerHome, authority: Authority, passphrase: str) -> None:
    """Writes certificate and encrypted key.

    Args:
        home: The server's folder.
        authority: What is written. (private)
        passphrase: Of at least 12 characters. (private)

    Raises:
        ConfigError: If the passphrase is shorter.
    """
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise ConfigError(
            f"Expected a passphrase of at least {SHORTEST_PASSPHRASE} characters, got a shorter one. It protects the "
            "authority's key: choose a longer one."
        )
    encryption = BestAvailableEncryption(_stretched(passphrase, authority.certificate))
    content = authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    write_atomically(home.authority_key, lambda stream: stream.write(content), mode=_SECRET)
    write_certificate(home.authority, authority.certificate)


def open_authority(home: ServerHome, passphrase: str) -> Authority:
    """The authority of a server. (private)

    Raises:
        ConfigError: If a file is absent or damaged, others can read the key, or the passphrase is another.
    """
    certificate = read_certificate(home.authority)
    content = _read_secret(home.authority_key)
    try:
        key = load_pem_private_key(content, _stretched(passphrase, certificate))
    except TypeError:  # it was not encrypted
        key = None
    except ValueError:
        raise ConfigError(
            f"Expected the passphrase of {home.authority_key.name}, got another one (or the file is damaged). Nothing was "
            "changed; try again."
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(
            f"Expected in {home.authority_key.name} the encrypted key of {home.authority.name}, found another. Restore both "
            "from a backup."
        )
    return Authority(certificate, key)


def make_certificate_key(home: ServerHome) -> ec.EllipticCurvePublicKey:
    """Makes and writes the key of the server's certificate; not encrypted, because the server starts by itself."""
    key = ec.generate_private_key(ec.SECP384R1())
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(home.certificate_key, lambda stream: stream.write(content), mode=_SECRET)
    return key.public_key()


def renew_certificate(home: ServerHome, passphrase: str, hosts: Sequence[str], *, days: int, now: int) -> x509.Certificate:
    """Writes a new certificate for the server's key, by the same authority.

    The key stays: with it one file is replaced, in one step, and no crash leaves a certificate of another key.

    Args:
        home: The server's folder.
        passphrase: Of the authority's key. (private)
        hosts: Verified.
        days: How long it holds.
        now: Seconds since 1970.

    Raises:
        ConfigError: As `open_authority`; or if the certificate would outlive the authority.
    """
    verify_days(days, now=now, ends=ends(read_certificate(home.authority)))
    authority = open_authority(home, passphrase)
    key = read_certificate(home.certificate).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"Expected an ECDSA key in {home.certificate.name}, found another. Restore it from a backup.")
    certificate = server_certificate(authority, key, hosts, days=days, now=now)
    write_certificate(home.certificate, certificate)
    return certificate


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate of a file.

    Raises:
        ConfigError: If the file is absent or holds something else.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Expected a certificate in {path.name}, could not read it ({type(error).__name__}). Restore it from a backup."
        ) from None


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Writes a certificate, whole or not at all."""
    write_atomically(path, lambda stream: stream.write(certificate.public_bytes(Encoding.PEM)))


def ends(certificate: x509.Certificate) -> int:
    """Last second of a certificate."""
    return int(certificate.not_valid_after_utc.timestamp())


def _stretched(passphrase: str, certificate: x509.Certificate) -> bytes:
    """What the key is encrypted with: as many bits as the cipher has, slow to compute, other ones for each authority."""
    kdf = Scrypt(salt=certificate.fingerprint(SHA256()), length=32, **_SCRYPT)
    return kdf.derive(passphrase.encode()).hex().encode()


def _read_secret(path: Path) -> bytes:
    try:
        verify_owner_alone(path)
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Expected a key in {path.name}, could not read it ({error.strerror or type(error).__name__}). Bring it "
            "back from where you keep it."
        ) from None


def _dated(now: int, until: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(now - CLOCK_SKEW, UTC))
        .not_valid_after(datetime.fromtimestamp(until, UTC))
    )
