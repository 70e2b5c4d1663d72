"""The cohort's tree: every leaf opens at its place, and no identity opens at two, whatever tree a server makes."""

from __future__ import annotations

import itertools

import pytest

from shared.errors import ProtocolViolation
from shared.secagg.merkle import CohortTree, Path, order_key, path_length, verify_membership


def _cohort(count: int) -> tuple[list[bytes], list[bytes]]:
    keys = sorted(order_key(b"%16d" % number) for number in range(count))
    return keys, [b"leaf of " + key for key in keys]


def _verify(root: bytes, count: int, index: int, key: bytes, leaf: bytes, path: Path) -> None:
    verify_membership(root, count, index, key=key, leaf=leaf, path=path, stage="test")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 9, 33])
def test_every_leaf_opens_at_its_own_place_and_nowhere_else(count: int) -> None:
    keys, leaves = _cohort(count)
    tree = CohortTree(keys, leaves)
    for index in range(count):
        path = tree.path(index)
        assert len(path) == path_length(count, index)
        _verify(tree.root, count, index, keys[index], leaves[index], path)
        for place in range(-1, count + 2):
            if place != index:
                with pytest.raises(ProtocolViolation, match="test: Expected an advertisement at its place"):
                    _verify(tree.root, count, place, keys[index], leaves[index], path)


def test_another_leaf_number_path_or_root_is_refused() -> None:
    keys, leaves = _cohort(9)
    tree = CohortTree(keys, leaves)
    path = tree.path(4)
    wrong_boundary = (path[0]._replace(boundary=bytes(8)), *path[1:])
    wrong_sibling = (*path[:-1], path[-1]._replace(sibling=bytes(32)))
    for root, count, leaf, steps in (
        (bytes(32), 9, leaves[4], path), (tree.root, 10, leaves[4], path), (tree.root, 9, leaves[5], path),
        (tree.root, 9, leaves[4], path[:-1]), (tree.root, 9, leaves[4], (*path, path[0])), (tree.root, 9, leaves[4], ()),
        (tree.root, 9, leaves[4], wrong_boundary), (tree.root, 9, leaves[4], wrong_sibling),
    ):  # fmt: skip
        with pytest.raises(ProtocolViolation, match="Do not answer: the server shows different cohorts"):
            _verify(root, count, 4, keys[4], leaf, steps)


def test_no_identity_opens_at_two_places_whatever_the_order_and_the_boundaries_are() -> None:
    """A server puts one advertisement twice among four, at any two places, under any boundaries: one at most opens."""
    keys, leaves = _cohort(3)
    opened_once = 0
    for first, second in itertools.combinations(range(4), 2):
        others = iter([0, 2])
        order = [1 if place in (first, second) else next(others) for place in range(4)]
        for boundaries in itertools.product([bytes(8), keys[0], keys[1], keys[2], b"\xff" * 8], repeat=4):
            # The tree takes the boundary before a place from the key at that place.
            tree = CohortTree(boundaries, [leaves[which] for which in order])
            opened = 0
            for place in (first, second):
                try:
                    _verify(tree.root, 4, place, keys[1], leaves[1], tree.path(place))
                except ProtocolViolation:
                    continue
                opened += 1
            assert opened <= 1
            opened_once += opened
    assert opened_once
