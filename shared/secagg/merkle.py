"""A commitment to a cohort: a tree over all advertisements, in which no identity can have two leaves.

Leaves are ordered by a key that follows from the identity, and an inner node is the hash of its two children and of the
smallest key on the right. A client that is shown a leaf checks at every node that the key lies on the leaf's side. Two
leaves of one identity would need, where their paths part, a key both below and not below the same number. So whatever tree
a server makes, each identity can be opened at one place at most. Sorting alone would not be enough: a server could put a
corrupt client's advertisement at many places, and a client, which sees few neighbors, would rarely see it twice.

Source:
    RFC 6962, section 2.1 (shape of the tree, and that leaves and nodes are hashed apart).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from shared.errors import ProtocolViolation
from shared.secagg.context import DIGEST_BYTES, digest

ORDER_BYTES = 8


class PathNode(NamedTuple):
    """One step from a leaf to the root.

    Attributes:
        sibling: Hash of the other child, 32 bytes.
        boundary: Smallest order key on the right, 8 bytes.
    """

    sibling: bytes
    boundary: bytes


Path = tuple[PathNode, ...]


def order_key(identity: bytes) -> bytes:
    """Where an identity stands in the order, 8 bytes; another identity has the same key with probability 2**-64."""
    return digest("order", identity)[:ORDER_BYTES]


class CohortTree:
    """The tree over advertisements that are ordered by their keys.

    Args:
        keys: Order keys, strictly ascending.
        leaves: The advertisements' bytes.
    """

    def __init__(self, keys: Sequence[bytes], leaves: Sequence[bytes]) -> None:
        self._keys = keys
        self._leaves = [_leaf(leaf) for leaf in leaves]
        self._nodes: dict[tuple[int, int], bytes] = {}
        self.root = _root(len(leaves), self._node(0, len(leaves)))

    def path(self, index: int) -> Path:
        """From a leaf to the root."""
        steps = [PathNode(self._node(*other), self._keys[middle]) for _, middle, other in _descent(len(self._leaves), index)]
        return tuple(reversed(steps))

    def _node(self, start: int, end: int) -> bytes:
        if end - start == 1:
            return self._leaves[start]
        if (start, end) not in self._nodes:
            middle = start + _split(end - start)
            left, right = self._node(start, middle), self._node(middle, end)
            self._nodes[start, end] = _inner(left, right, self._keys[middle])
        return self._nodes[start, end]


def path_length(num_clients: int, index: int) -> int:
    """Steps from a leaf to the root."""
    return len(_descent(num_clients, index))


def verify_membership(root: bytes, num_clients: int, index: int, *, key: bytes, leaf: bytes, path: Path, stage: str) -> None:
    """Passes if a leaf stands at this place of the cohort that `root` commits to.

    Guarantee:
        No two places of one root can be opened with leaves of one key, unless SHA-256 has a collision.

    Args:
        root: As announced.
        num_clients: n, as announced.
        index: Place in [0, n).
        key: Order key of the leaf's identity.
        leaf: The advertisement's bytes.
        path: From the leaf to the root.
        stage: For the error.

    Raises:
        ProtocolViolation: If the leaf does not stand there.
    """
    descent = _descent(num_clients, index) if 0 <= index < num_clients else []
    node = _leaf(leaf)
    fits = 0 <= index < num_clients and len(path) == len(descent)
    if fits:
        for (on_right, _, _), step in zip(reversed(descent), path, strict=True):
            fits = fits and (key >= step.boundary) == on_right
            node = _inner(*((step.sibling, node) if on_right else (node, step.sibling)), step.boundary)
    if not fits or _root(num_clients, node) != root:
        raise ProtocolViolation(
            f"{stage}: Expected an advertisement at its place in the cohort's tree, got another. "
            "Do not answer: the server shows different cohorts."
        )


def _descent(num_clients: int, index: int) -> list[tuple[bool, int, tuple[int, int]]]:
    """From the root to a leaf: whether it lies on the right, where the right begins, and the range of the other child."""
    steps = []
    start, end = 0, num_clients
    while end - start > 1:
        middle = start + _split(end - start)
        on_right = index >= middle
        steps.append((on_right, middle, (start, middle) if on_right else (middle, end)))
        start, end = (middle, end) if on_right else (start, middle)
    return steps


def _split(size: int) -> int:
    """The largest power of two below size."""
    return 1 << ((size - 1).bit_length() - 1)


def _leaf(leaf: bytes) -> bytes:
    return digest("leaf", leaf)


def _inner(left: bytes, right: bytes, boundary: bytes) -> bytes:
    return digest("node", left, right, boundary)


def _root(num_clients: int, node: bytes) -> bytes:
    return digest("root", struct.pack(">I", num_clients), node)


NODE_BYTES = DIGEST_BYTES + ORDER_BYTES
