"""What model calls cost."""

from __future__ import annotations

import asyncio

import anyio
import genai_prices
import msgspec
import pytest

from mcpgw.config import Provider
from mcpgw.upstream.llm import prices
from mcpgw.upstream.llm.prices import Prices
from mcpgw.upstream.llm.usage import Usage, facts

PROVIDERS = (
    Provider(name="openai", base_url="https://api.openai.com/v1"),
    Provider(name="gem", base_url="https://gemini.example/v1", price_provider="google"),
    Provider(name="house", base_url="http://models.internal/v1"),
)


def usage(prompt: int, completion: int, cached: int = 0, audio: int = 0) -> Usage:
    details = {"cached_tokens": cached, "audio_tokens": audio}
    told = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
    return msgspec.convert(told, Usage)


@pytest.mark.requirement("llm:prices")
@pytest.mark.parametrize(
    ("provider", "listed", "model"), [("openai", "openai", "gpt-4o"), ("gem", "google", "gemini-2.5-pro")]
)
@pytest.mark.parametrize("prompt", [1_000, 200_000, 200_001])
async def test_a_call_costs_what_the_price_list_says(provider: str, listed: str, model: str, prompt: int) -> None:
    known = Prices(PROVIDERS)
    await known.learn([(provider, model)])
    used = genai_prices.Usage(input_tokens=prompt, output_tokens=500, cache_read_tokens=100)
    expected = genai_prices.calc_price(used, model, provider_id=listed).total_price
    assert known.cost_usd(provider, model, usage(prompt, 500, cached=100)) == pytest.approx(float(expected))


@pytest.mark.requirement("llm:prices")
async def test_an_unknown_price_is_none_and_never_an_error() -> None:
    known = Prices(PROVIDERS)
    await known.learn([("house", "ours"), ("openai", "no-such-model"), ("nobody", "x")])
    for provider, model in [("house", "ours"), ("openai", "no-such-model"), ("nobody", "x")]:
        assert known.cost_usd(provider, model, usage(1, 1)) is None
    await known.learn([("openai", "gpt-4o")])
    assert known.cost_usd("openai", "gpt-4o", usage(1, 1, audio=1)) is None


@pytest.mark.requirement("llm:prices")
async def test_a_model_seen_for_the_first_time_is_looked_up_once_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[object] = []
    real = prices._looked_up

    def counted(models: list[tuple[str, str]]) -> list[prices.UnitPrices | None]:
        looked_up.append((models, asyncio._get_running_loop()))
        return real(models)

    monkeypatch.setattr(prices, "_looked_up", counted)
    known = Prices(PROVIDERS)
    assert known.cost_usd("openai", "gpt-4o-mini", usage(1000, 100)) is None
    assert known.cost_usd("openai", "gpt-4o-mini", usage(1000, 100)) is None
    with anyio.fail_after(10):
        await asyncio.gather(*known._asked.values())
    assert known.cost_usd("openai", "gpt-4o-mini", usage(1000, 100)) == pytest.approx(0.00021)
    assert looked_up == [([("openai", "gpt-4o-mini")], None)]


@pytest.mark.parametrize("told", [{"prompt_tokens": -1}, {"prompt_tokens": "7"}, {"completion_tokens": 1.5}, []])
def test_counts_that_are_none_are_not_believed(told: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(told, Usage)


def test_the_record_holds_counts_and_cost() -> None:
    assert facts(usage(10, 5, cached=3), 0.25) == {
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 3,
        "reasoning_tokens": 0,
        "cost_usd": 0.25,
    }
