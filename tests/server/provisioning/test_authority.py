"""The authority: real TLS handshakes over loopback, and a key that is nothing without its passphrase."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from server.home import ServerHome
from server.provisioning.authority import (
    Authority,
    ends,
    make_authority,
    open_authority,
    read_certificate,
    renew_certificate,
    server_certificate,
    write_authority,
)
from shared.errors import ConfigError
from tests import provisioning
from tests.provisioning import DAY, HOSTS, MADE, NOW, PASSPHRASE

KEY = ec.generate_private_key(ec.SECP384R1())
AUTHORITY = make_authority("fl.example.org", now=MADE)
CERTIFICATE = server_certificate(AUTHORITY, KEY.public_key(), HOSTS, days=365, now=MADE)


def _pem(*certificates: x509.Certificate) -> str:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates).decode()


class Listening:
    """A TLS server on loopback that greets each client."""

    def __init__(self, folder: Path, key: ec.EllipticCurvePrivateKey, *certificates: x509.Certificate) -> None:
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        (folder / "tls.pem").write_text(secret + _pem(*certificates), encoding="ascii")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.load_cert_chain(folder / "tls.pem")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._greet, daemon=True)
        self._thread.start()

    def _greet(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(connection, server_side=True) as stream:
                    stream.sendall(b"hello")
            except OSError:
                continue

    def greeting(self, host: str, authority: x509.Certificate) -> bytes:
        """What a client that trusts this authority reads from a server that it believes to be this host."""
        context = ssl.create_default_context(cadata=_pem(authority))
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
        with (
            socket.create_connection(self._socket.getsockname(), timeout=10) as connection,
            context.wrap_socket(connection, server_hostname=host) as stream,
        ):
            return stream.recv(5)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(timeout=10)


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    server = Listening(tmp_path, KEY, CERTIFICATE)
    yield server
    server.close()


@pytest.mark.parametrize("host", [*HOSTS, "localhost", "127.0.0.1", "::1"])
def test_a_client_that_trusts_the_authority_reaches_the_server_by_each_of_its_names(listening: Listening, host: str) -> None:
    assert listening.greeting(host, AUTHORITY.certificate) == b"hello"


@pytest.mark.parametrize("host", ["example.org", "evil.example.org", "192.0.2.8", "::2", "x.fl.example.org"])
def test_a_client_refuses_the_certificate_of_another_host(listening: Listening, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"Hostname mismatch|IP address mismatch"):
        listening.greeting(host, AUTHORITY.certificate)


def test_a_client_refuses_the_certificate_of_another_authority_of_the_same_name(listening: Listening) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        listening.greeting("localhost", make_authority("fl.example.org", now=MADE).certificate)


@pytest.mark.parametrize(
    ("made", "days"), [(NOW - 10 * DAY, 9), (NOW + 2 * DAY, 9)], ids=["after its days", "before its days"]
)
def test_a_client_refuses_a_certificate_before_and_after_its_days(tmp_path: Path, made: int, days: int) -> None:
    certificate = server_certificate(AUTHORITY, KEY.public_key(), HOSTS, days=days, now=made)
    listening = Listening(tmp_path, KEY, certificate)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"certificate has expired|not yet valid"):
        listening.greeting("localhost", AUTHORITY.certificate)
    listening.close()


def test_a_client_refuses_what_the_servers_own_key_signed(tmp_path: Path) -> None:
    """The server's key lies open on its disk: a thief may be this server, and no other one."""
    key = ec.generate_private_key(ec.SECP384R1())
    thief = server_certificate(Authority(CERTIFICATE, KEY), key.public_key(), ("bank.example.org",), days=9, now=NOW)
    listening = Listening(tmp_path, key, thief, CERTIFICATE)
    with pytest.raises(ssl.SSLCertVerificationError, match="invalid CA certificate"):
        listening.greeting("bank.example.org", AUTHORITY.certificate)
    listening.close()


def test_the_certificate_is_good_for_a_servers_tls_and_nothing_else() -> None:
    usage = CERTIFICATE.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.digital_signature
    assert not (usage.value.key_cert_sign or usage.value.crl_sign or usage.value.key_encipherment)
    extended = CERTIFICATE.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH]
    authority = AUTHORITY.certificate.extensions
    assert authority.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert not authority.get_extension_for_class(x509.KeyUsage).value.digital_signature
    assert authority.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)


def test_another_verifier_than_openssl_takes_the_certificate_on_each_of_its_days() -> None:
    """A year of days; the verifier is the strict one of `cryptography`, which shares no code with OpenSSL's."""
    for day in range(0, 366, 5):
        when = datetime.fromtimestamp(MADE + day * DAY, UTC)
        verifier = PolicyBuilder().store(Store([AUTHORITY.certificate])).time(when)
        assert verifier.build_server_verifier(x509.DNSName("fl.example.org")).verify(CERTIFICATE, [])
    late = PolicyBuilder().store(Store([AUTHORITY.certificate])).time(datetime.fromtimestamp(MADE + 366 * DAY, UTC))
    with pytest.raises(VerificationError, match=r"certificate is expired|not valid at validation time"):
        late.build_server_verifier(x509.DNSName("fl.example.org")).verify(CERTIFICATE, [])


def test_no_certificate_outlives_the_authority() -> None:
    assert ends(AUTHORITY.certificate) == MADE + 3650 * DAY
    late = MADE + 3600 * DAY
    assert ends(server_certificate(AUTHORITY, KEY.public_key(), HOSTS, days=50, now=late)) == ends(AUTHORITY.certificate)
    with pytest.raises(ConfigError, match="Expected --days from 1 to 50, got --days=51"):
        server_certificate(AUTHORITY, KEY.public_key(), HOSTS, days=51, now=late)


def test_the_authoritys_key_opens_with_its_passphrase_alone(server_home: ServerHome) -> None:
    opened = open_authority(server_home, PASSPHRASE)
    assert opened.key.public_key() == opened.certificate.public_key() == read_certificate(server_home.authority).public_key()
    with pytest.raises(ConfigError, match=r"Expected the passphrase of ca\.key, got another one"):
        open_authority(server_home, f"{PASSPHRASE} ")
    content = server_home.authority_key.read_bytes()
    assert content.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert server_home.authority_key.stat().st_mode & 0o777 == 0o600
    # The passphrase itself is not what the key is encrypted with: each guess would cost 2,048 hashes and no more.
    with pytest.raises(ValueError, match=r"."):
        load_pem_private_key(content, PASSPHRASE.encode())


def test_a_short_passphrase_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Expected a passphrase of at least 12 characters, got a shorter one") as caught:
        write_authority(ServerHome(tmp_path), AUTHORITY, "elevenchars")
    assert "elevenchars" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_authority_that_others_can_read_or_that_is_damaged_or_away_is_refused(server_home: ServerHome) -> None:
    path = server_home.authority_key
    content = path.read_bytes()
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"Expected ca\.key to be readable for its owner alone"):
        open_authority(server_home, PASSPHRASE)
    path.chmod(0o600)
    for other in (KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), content[:100]):
        path.write_bytes(other)
        with pytest.raises(ConfigError, match=r"^Expected "):
            open_authority(server_home, PASSPHRASE)
    path.unlink()
    with pytest.raises(ConfigError, match=r"Expected a key in ca\.key, could not read it \(No such file or directory\)"):
        open_authority(server_home, PASSPHRASE)


def test_a_renewed_certificate_is_of_the_same_key_and_authority_and_serves_new_hosts(
    server_home: ServerHome, tmp_path: Path
) -> None:
    before, key = read_certificate(server_home.certificate), server_home.certificate_key.read_bytes()
    renewed = renew_certificate(server_home, PASSPHRASE, ("new.example.org",), days=400, now=NOW)
    assert read_certificate(server_home.certificate) == renewed
    assert renewed.serial_number != before.serial_number and ends(renewed) == NOW + 400 * DAY
    assert server_home.certificate_key.read_bytes() == key
    secret = load_pem_private_key(key, None)
    assert isinstance(secret, ec.EllipticCurvePrivateKey)
    listening = Listening(tmp_path, secret, renewed)
    assert listening.greeting("new.example.org", read_certificate(server_home.authority)) == b"hello"
    listening.close()


def test_a_certificate_that_cannot_be_renewed_stays(server_home: ServerHome) -> None:
    before = provisioning.snapshot(server_home.path)
    with pytest.raises(ConfigError, match="Expected the passphrase"):
        renew_certificate(server_home, "another passphrase", HOSTS, days=365, now=NOW)
    with pytest.raises(ConfigError, match="Expected --days from 1 to"):
        renew_certificate(server_home, PASSPHRASE, HOSTS, days=0, now=NOW)
    assert provisioning.snapshot(server_home.path) == before


def test_no_secret_is_shown() -> None:
    assert "PrivateKey" not in repr(AUTHORITY)
