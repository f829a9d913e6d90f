"""How the types are made that every call makes anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:

    def value(*, frozen: bool, **options: Any) -> Callable[[type], type]:
        """A dataclass that is frozen for the type checker, which holds all of our code, and not at run time.

        There each field of a frozen dataclass costs a call: a tenth of what a governed call takes in all.
        """
        return dataclass(unsafe_hash=True, **options)


__all__ = ["value"]
