"""Primitives against published vectors, and what of keys and signatures is refused."""

from __future__ import annotations

import dataclasses

import pytest
from Crypto.Cipher import AES
from Crypto.Hash import SHA256 as OTHER_SHA256
from Crypto.Protocol.KDF import HKDF as other_hkdf  # noqa: N811
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import ProtocolViolation
from shared.secagg import keys
from shared.secagg.keys import LOW_ORDER_POINTS, AgreementKey, Roster, RosterEntry
from tests.secure_sums import NOW, identity, roster, signing_key

H = bytes.fromhex
ALICE = H("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = H("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")


def test_key_agreement_gives_the_vectors_of_rfc_7748() -> None:
    """Section 6.1."""
    alice, bob = AgreementKey.from_secret(ALICE), AgreementKey.from_secret(BOB)
    assert alice.public == H("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert bob.public == H("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    secret = H("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert alice.agree(bob.public, stage="test") == bob.agree(alice.public, stage="test") == secret


def test_signatures_are_those_of_rfc_8032() -> None:
    """Section 7.1, test 1; and the roster takes it."""
    key = Ed25519PrivateKey.from_private_bytes(H("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    signature = keys.sign(key, b"")
    assert signature == H(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe2465514143"
        "8e7a100b"
    )
    public = H("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    Roster({b"i" * 16: RosterEntry(public, NOW)}).verify(b"i" * 16, signature, b"", now=NOW, stage="test")


def test_key_derivation_is_that_of_rfc_5869() -> None:
    """Test case 1 of the primitive; as it is used, another library's."""
    okm = HKDF(SHA256(), 42, salt=H("000102030405060708090a0b0c"), info=H("f0f1f2f3f4f5f6f7f8f9")).derive(b"\x0b" * 22)
    assert okm == H("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    used = keys.derive_key(ALICE, "shares", context=b"c" * 32, sender=7, receiver=258)
    info = b"shares\x00" + H("00000007") + H("00000102")
    assert used == other_hkdf(ALICE, 32, b"c" * 32, OTHER_SHA256, context=info)


def test_sealing_is_the_gcm_of_nist() -> None:
    """Test case 16 of the specification, of the primitive; as it is used, another library's."""
    key = H("feffe9928665731c6d6a8f9467308308" * 2)
    plain = H(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    associated = H("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    assert AESGCM(key).encrypt(H("cafebabefacedbaddecaf888"), plain, associated) == H(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )
    other = AES.new(key, AES.MODE_GCM, nonce=bytes(12))
    other.update(associated)
    assert keys.seal(key, plain, associated=associated) == b"".join(other.encrypt_and_digest(plain))


@pytest.mark.parametrize("high_bit", [0, 128])
@pytest.mark.parametrize("point", sorted(LOW_ORDER_POINTS))
def test_a_low_order_point_is_refused(point: bytes, high_bit: int) -> None:
    point = point[:-1] + bytes([point[-1] | high_bit])
    with pytest.raises(ProtocolViolation, match="test: Expected an X25519 public key of high order, got a low-order point"):
        keys.verify_point(point, stage="test")
    with pytest.raises(ProtocolViolation, match="got a low-order point"):
        AgreementKey.generate().agree(point, stage="test")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_point_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ProtocolViolation, match="Expected an X25519 public key"):
        keys.verify_point(b"\x09" * size, stage="test")


def test_generated_keys_differ() -> None:
    assert len({AgreementKey.generate().secret for _ in range(8)}) == 8


def test_keys_differ_by_purpose_direction_and_context() -> None:
    made = {
        keys.derive_key(ALICE, label, context=context, sender=sender, receiver=receiver)
        for label in ("shares", "statements")
        for context in (bytes(32), b"c" * 32)
        for sender, receiver in ((1, 2), (2, 1), (1, 3))
    }
    assert len(made) == 12


@pytest.mark.parametrize("at", [0, 40, 81])
def test_a_sealed_message_with_one_other_bit_is_refused(at: int) -> None:
    sealed = bytearray(keys.seal(ALICE, bytes(66), associated=b"a"))
    assert keys.unseal(ALICE, bytes(sealed), associated=b"a", stage="test") == bytes(66)
    sealed[at] ^= 1
    with pytest.raises(ProtocolViolation, match="test: Expected sealed shares for this client"):
        keys.unseal(ALICE, bytes(sealed), associated=b"a", stage="test")


def test_a_sealed_message_with_other_associated_data_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="Expected sealed shares for this client"):
        keys.unseal(ALICE, keys.seal(ALICE, bytes(66), associated=b"a"), associated=b"b", stage="test")


def test_only_the_very_statement_passes() -> None:
    made = keys.statement(ALICE, b"label", b"what")
    keys.verify_statement(ALICE, made, b"label", b"what")
    for key, claimed, what in (
        (BOB, made, (b"label", b"what")),
        (ALICE, made[:-1] + bytes([made[-1] ^ 1]), (b"label", b"what")),
        (ALICE, made, (b"labelw", b"hat")),
        (ALICE, bytes(16), (b"label", b"what")),
    ):
        with pytest.raises(ProtocolViolation, match="Expected a statement of this neighbor in this cohort"):
            keys.verify_statement(key, claimed, *what)


def test_an_identity_that_does_not_count_is_refused() -> None:
    known = dict(roster(2).entries)
    signature = signing_key(0).sign(b"message")
    Roster(known).verify(identity(0), signature, b"message", now=NOW + 60, stage="test")
    entry = known[identity(0)]
    for entries, now, message, problem in (
        ({}, NOW, b"message", "Expected an identity of the roster"),
        ({identity(0): dataclasses.replace(entry, revoked=True)}, NOW, b"message", "got a revoked one"),
        (known, NOW + 61, b"message", "got an expired one"),
        (known, NOW, b"another", "Expected a signature of this identity"),
        ({identity(0): known[identity(1)]}, NOW, b"message", "Expected a signature of this identity"),
        ({identity(0): RosterEntry(b"no key", NOW)}, NOW, b"message", "Expected a signature of this identity"),
    ):
        with pytest.raises(ProtocolViolation, match=problem):
            Roster(entries).verify(identity(0), signature, message, now=now, stage="test")
