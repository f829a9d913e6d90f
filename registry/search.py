"""Search over tools: BM25 (Robertson and Zaragoza 2009) on names, titles, descriptions and names of properties.

The index holds every tool that an endpoint offers; a query counts only what its caller may see, the statistics of words
included, so that nothing about hidden tools can be read from the order of the others.
"""

from __future__ import annotations

import asyncio
import math
import re
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from mcpgw.domain import Listing, Offer, Selection
from mcpgw.registry.selection import shown

MAX_QUERY = 1000  # characters
MAX_TERMS = 16
MAX_COUNTED = 20_000
"""Occurrences that a query weighs, about 10 ms; it begins with its rarest words."""
MAX_TEXT = 2000  # characters of one description
TURN = 25
"""Tools taken into an index before other calls get their turn: about a millisecond."""
INDEXES_KEPT = 32
_K1, _B = 1.2, 0.75
_NAME, _TITLE, _TEXT = 3.0, 2.0, 1.0  # what a word counts where it stands
_WORD = re.compile(r"[^\W_]+")
_HUMP = re.compile(r"[A-Z]+(?![a-z])[0-9]*|[A-Z]?[a-z]+[0-9]*|[0-9]+")


class _Schema(msgspec.Struct):
    properties: dict[str, msgspec.Raw] = {}


class _Definition(msgspec.Struct):
    name: str
    title: str | None = None
    description: str | None = None
    inputSchema: _Schema = msgspec.field(default_factory=_Schema)


_definition = msgspec.json.Decoder(_Definition).decode
_named = msgspec.json.Decoder(dict[str, Any]).decode


class Index:
    """An inverted index; documents are numbered as they are added."""

    def __init__(self) -> None:
        self._postings: dict[str, tuple[array[int], array[float]]] = {}
        self.lengths = array("d")

    def add(self, fields: Iterable[tuple[float, str]]) -> None:
        """Add a document: texts with the weight of their words."""
        weights: dict[str, float] = {}
        for weight, text in fields:
            for word in words(text):
                weights[word] = weights.get(word, 0.0) + weight
        number = len(self.lengths)
        self.lengths.append(sum(weights.values()))
        for word, weight in weights.items():
            numbers, found = self._postings.setdefault(word, (array("L"), array("f")))
            numbers.append(number)
            found.append(weight)

    def ranked(self, query: str, among: Among) -> list[int]:
        """Return the documents of `among` in which a word of the query stands, best first; of equals the first."""
        asked = list(dict.fromkeys(words(query[:MAX_QUERY])))[:MAX_TERMS]
        scores: dict[int, float] = {}
        counted = 0
        for found in sorted((self._found(word, among) for word in asked), key=len):
            if counted > MAX_COUNTED:
                break  # what is left is said of so many tools that it tells them apart no more
            counted += len(found)
            rarity = math.log(1 + (among.count - len(found) + 0.5) / (len(found) + 0.5))
            for number, weight in found:
                norm = _K1 * (1 - _B + _B * self.lengths[number] / among.mean_length)
                scores[number] = scores.get(number, 0.0) + rarity * weight * (_K1 + 1) / (weight + norm)
        return sorted(scores, key=lambda number: (-scores[number], number))

    def _found(self, word: str, among: Among) -> list[tuple[int, float]]:
        """Return the documents of `among` that have a word, and its weight there."""
        numbers, weights = self._postings.get(word, _NOWHERE)
        return [(n, w) for n, w in zip(numbers, weights, strict=True) if among.mask[n]]


class Among:
    """The documents that a query may find."""

    def __init__(self, index: Index, numbers: Sequence[int]) -> None:
        self.mask = bytearray(len(index.lengths))
        for number in numbers:
            self.mask[number] = 1
        self.count = len(numbers)
        self.mean_length = sum(index.lengths[number] for number in numbers) / max(1, self.count) or 1.0


class ToolSearch:
    """Finds tools by what is said of them."""

    def __init__(self) -> None:
        self._held: OrderedDict[str | None, tuple[tuple[object, ...], Index]] = OrderedDict()

    async def find(self, listing: Listing, query: str, limit: int, server: str | None) -> tuple[list[Offer], int]:
        """Return those of the listing's tools that match best, and how many match; of one server if it is named."""
        selection = listing.selection
        if selection is None:
            return [], 0
        index = await self._index_of(selection)
        among: Among | None = listing.memo.get("among")
        if among is None:
            seen = set(listing.offers)
            among = listing.memo["among"] = Among(
                index,
                [
                    number
                    for number, offer in enumerate(selection.offers)
                    if offer in seen and offer.tool.name not in offer.version.quarantined
                ],
            )
        found = [selection.offers[number] for number in index.ranked(query, among)]
        if server is not None:
            found = [offer for offer in found if offer.version.server == server]
        return found[:limit], len(found)

    async def _index_of(self, selection: Selection) -> Index:
        """Return the index of a selection. Whoever comes while it is made waits for the same one."""
        index: Index | None = selection.memo.get("index")
        if index is None:
            making: asyncio.Task[Index] | None = selection.memo.get("making an index")
            if making is None:
                making = asyncio.create_task(self._made(selection), name="index tools")
                selection.memo["making an index"] = making
            index = await asyncio.shield(making)
        return index

    async def _made(self, selection: Selection) -> Index:
        try:
            slug = selection.toolset.slug if selection.toolset is not None else None
            content = tuple(offer.shown for offer in selection.offers)
            held = self._held.pop(slug, None)
            if held is None or held[0] != content:
                held = content, await _indexed(selection.offers)
            self._held[slug] = held
            while len(self._held) > INDEXES_KEPT:
                self._held.popitem(last=False)
            selection.memo["index"] = held[1]
            return held[1]
        finally:
            del selection.memo["making an index"]


async def _indexed(offers: Sequence[Offer]) -> Index:
    index = Index()
    for turn, offer in enumerate(offers, start=1):
        index.add(_fields(shown(offer)))
        if turn % TURN == 0:
            await asyncio.sleep(0)
    return index


def words(text: str) -> Iterator[str]:
    """Yield the words of a text: split at everything but letters and digits and within camelCase, without plural."""
    for word in _WORD.findall(text):
        if word.islower() or not word.isascii():
            yield _singular(word.lower())
        else:
            for hump in _HUMP.findall(word):
                yield _singular(hump.lower())


def _singular(word: str) -> str:
    """Return an English word without its plural ending (Harman 1991, the S stemmer)."""
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word if word.endswith(("eies", "aies")) else word[:-3] + "y"
    if word.endswith("es"):
        return word if word.endswith(("aes", "ees", "oes")) else word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]


def _fields(definition: bytes) -> Iterator[tuple[float, str]]:
    try:
        tool = _definition(definition)
    except msgspec.DecodeError:  # pinned as it was, however odd: then it is found by its name
        yield _NAME, str(_named(definition)["name"])
        return
    yield _NAME, tool.name
    if tool.title:
        yield _TITLE, tool.title
    if tool.description:
        yield _TEXT, tool.description[:MAX_TEXT]
    for name in tool.inputSchema.properties:
        yield _TEXT, name


_NOWHERE: tuple[array[int], array[float]] = (array("L"), array("f"))
