"""What a model call used, as the provider reports it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: Count | None = None
    audio_tokens: Count | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    audio_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class Usage(msgspec.Struct, gc=False):
    """OpenAI's `usage` object, as far as it is counted. Cached tokens are part of the prompt's, reasoning of the rest.

    Raises msgspec.ValidationError when decoded from an object whose counts are not natural numbers.
    """

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    @property
    def cached_tokens(self) -> int:
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0

    @property
    def reasoning_tokens(self) -> int:
        return (self.completion_tokens_details and self.completion_tokens_details.reasoning_tokens) or 0

    @property
    def audio_tokens(self) -> int:
        heard = (self.prompt_tokens_details and self.prompt_tokens_details.audio_tokens) or 0
        spoken = (self.completion_tokens_details and self.completion_tokens_details.audio_tokens) or 0
        return heard + spoken


Cost = Callable[[str, str, Usage], float | None]
"""Return what a use of (provider slug, model) costs in US dollars; None when the price is not known."""


def facts(usage: Usage, cost_usd: float | None) -> Mapping[str, Any]:
    """Return what goes into the record."""
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost_usd": cost_usd,
    }
