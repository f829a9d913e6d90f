"""What model calls cost, from the price list of genai-prices.

Importing this module, and the first look-up, load that list (some ten megabytes): it is imported where providers are
configured, and look-ups run in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import genai_prices
from genai_prices.types import TieredPrices

from mcpgw.config import Provider
from mcpgw.upstream.llm.usage import Usage

MILLION = 1_000_000
FRESH_S = 3600.0  # some prices change with the date or the time of day
MAX_MODELS = 10_000
Steps = tuple[tuple[int, float], ...]
"""Dollars per million tokens from so many input tokens on: the step reached holds for all tokens of the call."""


@dataclass(frozen=True, slots=True)
class UnitPrices:
    """The prices of one model."""

    input: Steps
    cached: Steps
    output: Steps

    def cost_usd(self, usage: Usage) -> float:
        size = usage.prompt_tokens
        fresh = max(0, size - usage.cached_tokens)
        cost = fresh * _at(self.input, size) + usage.cached_tokens * _at(self.cached, size)
        return (cost + usage.completion_tokens * _at(self.output, size)) / MILLION


class Prices:
    """Unit prices by (provider slug, model), looked up once an hour at most.

    A model seen for the first time costs None until its look-up is done; `learn` does it beforehand.
    """

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._listed_as = {p.name: p.price_provider or p.name for p in providers}
        self._known: dict[tuple[str, str], tuple[float, UnitPrices | None]] = {}
        self._asked: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def learn(self, models: Sequence[tuple[str, str]]) -> None:
        """Look up the prices of these models, off the loop."""
        names = [(self._listed_as.get(provider, provider), model) for provider, model in models]
        found = await asyncio.to_thread(_looked_up, names)
        now = time.monotonic()
        for key, prices in zip(models, found, strict=True):
            if len(self._known) >= MAX_MODELS:
                del self._known[next(iter(self._known))]
            self._known[key] = (now, prices)

    def cost_usd(self, provider: str, model: str, usage: Usage) -> float | None:
        """Return the cost of a call, or None: an unknown price, or tokens (audio) whose price is another one."""
        key = (provider, model)
        learned_at, prices = self._known.get(key, (-FRESH_S, None))
        if time.monotonic() - learned_at >= FRESH_S and key not in self._asked:
            task = asyncio.get_running_loop().create_task(self.learn([key]))
            self._asked[key] = task
            task.add_done_callback(lambda _: self._asked.pop(key, None))
        if prices is None or usage.audio_tokens:
            return None
        return prices.cost_usd(usage)


def _looked_up(models: Sequence[tuple[str, str]]) -> list[UnitPrices | None]:
    return [_unit_prices(provider, model) for provider, model in models]


def _unit_prices(provider: str, model: str) -> UnitPrices | None:
    try:
        found = genai_prices.calc_price(genai_prices.Usage(), model, provider_id=provider).model_price
    except LookupError:
        return None
    if found.input_mtok is None or found.output_mtok is None:
        return None
    cached = found.cache_read_mtok if found.cache_read_mtok is not None else found.input_mtok
    return UnitPrices(_steps(found.input_mtok), _steps(cached), _steps(found.output_mtok))


def _steps(price: Decimal | TieredPrices) -> Steps:
    if isinstance(price, TieredPrices):
        return ((0, float(price.base)), *((tier.start, float(tier.price)) for tier in price.tiers))
    return ((0, float(price)),)


def _at(steps: Steps, size: int) -> float:
    return next(price for start, price in reversed(steps) if size > start or start == 0)
