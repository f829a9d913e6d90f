"""A real browser: Debian's chromium, headless, for the pages that people see and click."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from playwright import async_api, sync_api

HOW = "apt-get install chromium"
WITHIN_MS = 30_000
# As root, which containers are, chromium has no sandbox; small machines have a small /dev/shm.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
# Nothing but this machine: the pages of others that name fonts elsewhere do not wait for them.
ELSEWHERE = re.compile(r"^(?!https?://(127\.0\.0\.1|localhost|\[::1\])[:/])")


class NoBrowser(Exception):
    """There is no chromium; the message names the command that installs it."""


def find() -> str:
    """Return the path of chromium. Raises NoBrowser."""
    found = shutil.which("chromium")
    if found is None:
        raise NoBrowser(f"chromium is missing: {HOW}")
    return found


@contextmanager
def browser() -> Iterator[sync_api.BrowserContext]:
    """Run a browser with an empty profile until the block ends. Raises NoBrowser."""
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=find(), args=ARGUMENTS)
        try:
            context = running.new_context()
            context.set_default_timeout(WITHIN_MS)
            context.route(ELSEWHERE, lambda route: route.abort())
            yield context
        finally:
            running.close()


@asynccontextmanager
async def async_browser() -> AsyncIterator[async_api.BrowserContext]:
    """The same in an asynchronous test."""
    async with async_api.async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=find(), args=ARGUMENTS)
        try:
            context = await running.new_context()
            context.set_default_timeout(WITHIN_MS)
            await context.route(ELSEWHERE, lambda route: route.abort())
            yield context
        finally:
            await running.close()
