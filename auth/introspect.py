"""Tokens that say nothing by themselves: their issuer is asked (RFC 7662), and believed for a short while."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode

from mcpgw.auth.claims import ForeignFacts, Reading
from mcpgw.auth.fetch import Request, json_object
from mcpgw.auth.jwks import Fetch
from mcpgw.config import secret
from mcpgw.domain import Principal
from mcpgw.errors import FetchFailed, GatewayError, Unauthenticated, Unavailable
from mcpgw.issuer_section import IntrospectionSection
from mcpgw.ports import Clock

log = logging.getLogger("mcpgw.auth")
MAX_CHARACTERS = 4096
MAX_KNOWN = 10_000
"""Tokens whose answer is remembered: so many that count, and so many that do not."""
MAX_ASKED = 2000
"""Questions that wait for their turn, AT_ONCE of which are being asked."""
AT_ONCE = 32
LATE_S = 10.0
"""Time beyond `cache_s` for which a call goes on while the issuer of its token does not answer."""


@dataclass(slots=True)
class _Known:
    """What the issuer said of a token at `asked_at` (monotonic). A refusal ends the calls that run with it."""

    token: str
    asked_at: float
    facts: ForeignFacts
    refusal: Unauthenticated | None = None


class Introspection:
    """Asks one issuer. Tokens are known by the digest of all of it; many who ask at once wait for one answer.

    A refusal is remembered as long as an admission, so that one made-up token costs the issuer one request.
    """

    generation = 0

    def __init__(self, section: IntrospectionSection, reading: Reading, fetch: Fetch, clock: Clock) -> None:
        self._section = section
        self._reading = reading
        self._fetch = fetch
        self._clock = clock
        pair = f"{quote_plus(section.client_id)}:{quote_plus(secret(section.client_secret))}"  # RFC 6749 §2.3.1
        self._headers = {
            "authorization": "Basic " + base64.b64encode(pair.encode()).decode(),
            "content-type": "application/x-www-form-urlencoded",
        }
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._refused: OrderedDict[str, tuple[float, Unauthenticated]] = OrderedDict()
        self._digests: dict[str, str] = {}
        self._asking: dict[str, asyncio.Task[ForeignFacts]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._silent = False

    async def read(self, token: str, digest: str) -> ForeignFacts:
        """Return what the issuer says of a token. Raises Unauthenticated; Unavailable when it does not answer."""
        if not 0 < len(token) <= MAX_CHARACTERS or not token.isprintable() or not token.isascii():
            raise Unauthenticated("the credential cannot be read", fix="send it whole and unchanged")
        now = self._clock.monotonic()
        until, refusal = self._refused.get(digest, (now, None))
        if refusal is not None and now < until:
            raise Unauthenticated(refusal.message, fix=refusal.fix)
        known = self._known.get(digest)
        if known is not None and known.refusal is None and now < known.asked_at + self._section.cache_s:
            return known.facts
        # Whoever goes away meanwhile leaves the question to the others.
        return await asyncio.shield(self._asked(token, digest))

    def refusal_of(self, who: Principal) -> Unauthenticated | None:
        """Return why a call that runs with an opaque token may not go on, or None. Asks its issuer when it is time."""
        digest = self._digests.get(who.credential or "")
        known = self._known.get(digest) if digest is not None else None
        if digest is None or known is None or who.issuer != self._reading.issuer:
            return None
        if known.refusal is not None:
            return known.refusal
        late_s = self._clock.monotonic() - known.asked_at - self._section.cache_s
        if late_s >= LATE_S:
            return Unauthenticated("the issuer of the access token does not answer", fix="try again later")
        if late_s >= 0 and len(self._asking) < MAX_ASKED:
            self._asked(known.token, digest)
        return None

    def _asked(self, token: str, digest: str) -> asyncio.Task[ForeignFacts]:
        asking = self._asking.get(digest)
        if asking is not None:
            return asking
        if len(self._asking) >= MAX_ASKED:
            raise Unavailable("the issuer of the access token is asked about too many", fix="try again later")
        asking = asyncio.get_running_loop().create_task(self._ask(token, digest), name="introspect a token")
        self._asking[digest] = asking
        asking.add_done_callback(lambda done: self._answered(digest, done))
        return asking

    def _answered(self, digest: str, asking: asyncio.Task[ForeignFacts]) -> None:
        del self._asking[digest]
        if not asking.cancelled():
            asking.exception()  # those who wait for it get it too; nobody may wait

    async def _ask(self, token: str, digest: str) -> ForeignFacts:
        body = urlencode({"token": token, "token_type_hint": "access_token"}).encode()
        try:
            async with self._turns:
                # What is said is true when it is asked, not when the answer comes.
                asked_at, now = self._clock.monotonic(), self._clock.time()
                response = await self._fetch(Request(self._section.endpoint, "POST", self._headers, body))
            if response.status != 200:
                raise FetchFailed(f"introspection was answered with status {response.status}")
            answer = json_object(response)
        except GatewayError as error:
            if not self._silent:  # said once, not at each token
                log.warning("%s could not be asked about a token: %s", self._reading.issuer, error)
            self._silent = True
            raise Unavailable("the issuer of the access token does not answer", fix="try again later") from None
        self._silent = False
        try:
            facts = self._read(answer, digest, now)
        except Unauthenticated as refusal:
            known = self._known.get(digest)
            if known is not None:
                known.refusal = refusal
            self._refused[digest] = asked_at + self._section.cache_s, refusal
            self._refused.move_to_end(digest)
            if len(self._refused) > MAX_KNOWN:
                self._refused.popitem(last=False)
            raise
        self._remember(digest, _Known(token, asked_at, facts))
        return facts

    def _read(self, answer: Mapping[str, Any], digest: str, now: float) -> ForeignFacts:
        """Return what an answer of RFC 7662 §2.2 says. Raises Unauthenticated."""
        if answer.get("active") is not True:
            raise Unauthenticated("the access token is not active, says its issuer", fix="get a new one")
        if str(answer.get("token_type", "Bearer")).lower() not in ("bearer", "access_token"):
            raise Unauthenticated("the access token is of a type whose proof is not read here")
        # What RFC 7662 lets an issuer leave out. A token without a time of issue is older than any revocation.
        said = {"iss": self._reading.issuer, "iat": 0, **answer}
        if "sub" not in said and "client_id" in said:
            said["sub"] = said["client_id"]  # the client itself
        facts = self._reading.facts(said, digest, self, now)
        facts.fresh_until = min(facts.expires_at, now + self._section.cache_s)
        return facts

    def _remember(self, digest: str, known: _Known) -> None:
        self._known[digest] = known
        self._known.move_to_end(digest)
        self._digests[known.facts.who.credential or digest] = digest
        if len(self._known) > MAX_KNOWN:
            oldest, gone = self._known.popitem(last=False)
            credential = gone.facts.who.credential or oldest
            if self._digests.get(credential) == oldest:
                del self._digests[credential]
