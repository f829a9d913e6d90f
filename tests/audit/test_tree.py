"""The trees, against RFC 6962's definition written down naively, and against published vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpgw.audit import tree

Hashes = Sequence[bytes]


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(leaves: Hashes) -> bytes:
    """RFC 6962 §2.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: Hashes) -> list[bytes]:
    """RFC 6962 §2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Hashes, whole: bool) -> list[bytes]:
    """RFC 6962 §2.1.2."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def nodes_over(leaves: Hashes) -> tree.Nodes:
    """Store what an index would: leaves, and the roots of complete subtrees of 256, 65,536, … leaves."""

    def nodes(level: int, first: int, count: int) -> list[bytes]:
        assert level % tree.LEVELS == 0
        size = 1 << level
        assert (first + count) * size <= len(leaves)
        return [mth(leaves[i * size : (i + 1) * size]) for i in range(first, first + count)]

    return nodes


def leaves_of(count: int) -> list[bytes]:
    return [hashlib.sha256(b"\x00" + str(i).encode()).digest() for i in range(count)]


def flipped(hash_: bytes) -> bytes:
    return bytes([hash_[0] ^ 1]) + hash_[1:]


# The inputs and roots of the certificate transparency reference implementation (merkletree tests).
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.requirement("audit:tree")
def test_roots_are_those_of_the_reference_implementation() -> None:
    frontier = tree.Frontier()
    assert frontier.root() == hashlib.sha256(b"").digest()
    for given_, root in zip(INPUTS, ROOTS, strict=True):
        frontier.append(hashlib.sha256(b"\x00" + bytes.fromhex(given_)).digest())
        assert frontier.root().hex() == root


@pytest.mark.requirement("audit:tree")
def test_a_growing_tree_has_the_root_of_the_definition_at_every_size() -> None:
    leaves = leaves_of(130)
    frontier = tree.Frontier()
    for size, leaf in enumerate(leaves, start=1):
        frontier.append(leaf)
        resumed = tree.Frontier(frontier.size, frontier.peaks)
        assert resumed.root() == frontier.root() == tree.root(nodes_over(leaves), size) == mth(leaves[:size])


def test_a_frontier_with_a_wrong_number_of_peaks_is_refused() -> None:
    with pytest.raises(ValueError, match="2 peaks"):
        tree.Frontier(3, [b"x" * 32])


@pytest.mark.requirement("audit:tree")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_inclusion_proof_proves_its_leaf_at_its_place_and_nothing_else(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 700))
    index = data.draw(st.integers(0, size - 1))
    leaves = leaves_of(size)
    root = mth(leaves)
    proof = tree.inclusion(nodes_over(leaves), index, size)
    assert proof == path(index, leaves)
    assert tree.includes(root, size, index, leaves[index], proof)
    assert not tree.includes(root, size, index, flipped(leaves[index]), proof)
    assert not tree.includes(root, size, index, leaves[index], [*proof, proof[0] if proof else root])
    assert not tree.includes(flipped(root), size, index, leaves[index], proof)
    assert not tree.includes(root, size, size, leaves[index], proof)
    if proof:
        changed = data.draw(st.integers(0, len(proof) - 1))
        assert not tree.includes(root, size, index, leaves[index], proof[:-1])
        broken = [flipped(p) if i == changed else p for i, p in enumerate(proof)]
        assert not tree.includes(root, size, index, leaves[index], broken)


@pytest.mark.requirement("audit:tree")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_consistency_proof_proves_that_the_second_tree_begins_with_the_first(data: st.DataObject) -> None:
    second = data.draw(st.integers(1, 700))
    first = data.draw(st.integers(1, second))
    leaves = leaves_of(second)
    old, new = mth(leaves[:first]), mth(leaves)
    proof = tree.consistency(nodes_over(leaves), first, second)
    assert proof == subproof(first, leaves, True)
    assert tree.consistent(first, old, second, new, proof)
    assert not tree.consistent(first, flipped(old), second, new, proof)
    assert not tree.consistent(first, old, second, flipped(new), proof)
    if proof:
        changed = data.draw(st.integers(0, len(proof) - 1))
        broken = [flipped(p) if i == changed else p for i, p in enumerate(proof)]
        assert not tree.consistent(first, old, second, new, broken)
        assert not tree.consistent(first, old, second, new, proof[:-1])


@pytest.mark.requirement("audit:tree")
def test_every_tree_begins_with_the_empty_one() -> None:
    leaves = leaves_of(5)
    assert tree.consistency(nodes_over(leaves), 0, 5) == []
    assert tree.consistent(0, tree.EMPTY, 5, mth(leaves), [])
    assert not tree.consistent(0, mth(leaves), 5, mth(leaves), [])
    assert not tree.consistent(5, mth(leaves), 4, mth(leaves[:4]), [])
