"""Merkle trees of RFC 6962 §2.1, with the verification algorithms of RFC 9162 §2.1.3-2.1.4.

Hashes are 32 raw bytes. A tree is read through `Nodes`: `nodes(level, first, count)` returns the hashes of `count`
complete subtrees of 2**level leaves each, from the `first` on; it is asked for multiples of LEVELS only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

LEVELS = 8
Nodes = Callable[[int, int, int], Sequence[bytes]]
EMPTY = hashlib.sha256(b"").digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the root over subtrees of equal size; there are 2**n of them."""
    while len(hashes) > 1:
        hashes = [node(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


class Frontier:
    """A tree that grows: only the roots of its complete subtrees are kept, the largest first."""

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if size < 0 or len(peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks, not {len(peaks)}")
        self.size = size
        self.peaks = list(peaks)

    def append(self, leaf: bytes) -> None:
        peaks, size = self.peaks, self.size
        while size & 1:
            leaf = node(peaks.pop(), leaf)
            size >>= 1
        peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        if not self.peaks:
            return EMPTY
        root = self.peaks[-1]
        for left in reversed(self.peaks[:-1]):
            root = node(left, root)
        return root


def root(nodes: Nodes, size: int) -> bytes:
    return _range(nodes, 0, size) if size else EMPTY


def inclusion(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """Return PATH(index, D[size]), the nearest sibling first."""
    if not 0 <= index < size:
        raise ValueError(f"record {index} is not in a tree of {size}")
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(_range(nodes, middle, end))
            end = middle
        else:
            path.append(_range(nodes, begin, middle))
            begin = middle
    return path[::-1]


def consistency(nodes: Nodes, first: int, second: int) -> list[bytes]:
    """Return PROOF(first, D[second]); empty when one of the trees is empty or both are the same."""
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {first} cannot grow into one of {second}")
    if first in {0, second}:
        return []
    proof: list[bytes] = []
    begin, end = 0, second
    while end != first:
        middle = begin + _split(end - begin)
        if first <= middle:
            proof.append(_range(nodes, middle, end))
            end = middle
        else:
            proof.append(_range(nodes, begin, middle))
            begin = middle
    if begin > 0:  # Otherwise the verifier knows this subtree: it is the whole first tree.
        proof.append(_range(nodes, begin, end))
    return proof[::-1]


def includes(root: bytes, size: int, index: int, leaf: bytes, path: Sequence[bytes]) -> bool:
    """Tell whether `path` proves that `leaf` stands at `index`: RFC 9162 §2.1.3.2."""
    if not 0 <= index < size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node(p, r)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            r = node(r, p)
        fn >>= 1
        sn >>= 1
    return sn == 0 and r == root


def consistent(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether `proof` shows that the second tree begins with the first: RFC 9162 §2.1.4.2."""
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY
    if first > second or not proof:
        return False
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node(c, fr), node(c, sr)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            sr = node(sr, c)
        fn >>= 1
        sn >>= 1
    return sn == 0 and fr == first_root and sr == second_root


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _range(nodes: Nodes, begin: int, end: int) -> bytes:
    """Return MTH(D[begin:end]) of a range that the recursion of RFC 6962 can meet."""
    size = end - begin
    if size & (size - 1):
        middle = begin + _split(size)
        return node(_range(nodes, begin, middle), _range(nodes, middle, end))
    level = size.bit_length() - 1
    stored = level - level % LEVELS
    return fold(nodes(stored, begin >> stored, size >> stored))
