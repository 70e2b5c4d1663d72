"""Masks: the stream of another library, exact cancellation, and keys that differ."""

from __future__ import annotations

import numpy as np
import pytest
from Crypto.Cipher import AES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from shared.secagg import masks
from tests.secure_sums import ROUND, context

KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
COHORT = ROUND.with_cohort(bytes(32), 5)


def test_counter_mode_gives_the_vector_of_nist() -> None:
    """SP 800-38A, F.5.5."""
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    expected = bytes.fromhex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5")
    assert Cipher(AES256(KEY), CTR(counter)).encryptor().update(plain) == expected


@pytest.mark.parametrize("length", [1, 3, 2**15 - 1, 2**15, 2**15 + 1, 70_001])
def test_a_mask_is_another_librarys_stream(length: int) -> None:
    """Over the borders of parts."""
    total = np.zeros(length, dtype=np.uint32)
    masks.add_mask(total, KEY)
    stream = AES.new(KEY, AES.MODE_CTR, nonce=b"").encrypt(bytes(4 * length))
    assert total.tolist() == [int.from_bytes(stream[at : at + 4], "little") for at in range(0, 4 * length, 4)]


@pytest.mark.parametrize("length", [1, 40_000])
def test_subtracting_a_mask_undoes_adding_it(length: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**20, length, dtype=np.uint32)
    total = values.copy()
    masks.add_mask(total, KEY)
    assert (total != values).any()
    masks.subtract_mask(total, KEY)
    assert (total == values).all()


def test_both_clients_of_a_pair_derive_one_key_and_every_other_key_differs() -> None:
    other = context(round_number=9).with_cohort(bytes(32), 5)
    assert masks.pair_mask_key(KEY, COHORT, 1, 4) == masks.pair_mask_key(KEY, COHORT, 4, 1)
    made = {
        masks.pair_mask_key(KEY, COHORT, 1, 4), masks.pair_mask_key(KEY, COHORT, 1, 3),
        masks.pair_mask_key(KEY, other, 1, 4),
        masks.pair_mask_key(bytes(32), COHORT, 1, 4), masks.own_mask_key(KEY, COHORT, 1), masks.own_mask_key(KEY, COHORT, 4),
        masks.own_mask_key(KEY, other, 1), masks.seed_commitment(KEY, COHORT, 1), masks.seed_commitment(KEY, COHORT, 4),
        masks.seed_commitment(KEY, other, 1), masks.seed_commitment(bytes(32), COHORT, 1),
    }  # fmt: skip
    assert len(made) == 11
