"""Authorization requests that a client sends ahead, before the browser comes (RFC 9126)."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from mcpgw.auth.keys import digest
from mcpgw.auth.server.asked import form_of
from mcpgw.auth.server.authorization import AUTHORIZATION_CODE, Authorizations, Query
from mcpgw.auth.server.client_authentication import ClientAuthentication
from mcpgw.auth.server.rates import Rate
from mcpgw.auth.server.refusals import NO_STORE, Answer, Refused, refused, unavailable
from mcpgw.domain import Asked, OAuthClient
from mcpgw.errors import GatewayError, PageError, RedirectError
from mcpgw.ports import AuthLog, Clock, Record, Records

EVENT = "par"
PAR = "par"
LIFE_S = 90
MAX_PER_MINUTE = 120
MAX_BYTES = 8192
_URN = "urn:ietf:params:oauth:request_uri:"
# Nothing else of the form is kept: what proves the client is in it too.
_KEPT = frozenset(
    {
        "client_id",
        "redirect_uri",
        "response_type",
        "response_mode",
        "scope",
        "state",
        "resource",
        "code_challenge",
        "code_challenge_method",
        "prompt",
        "login_hint",
    }
)


class PushedRequests:
    """Keeps what was pushed for a short while; implements authorization.Pushed."""

    def __init__(self, records: Records, clock: Clock, pepper: bytes) -> None:
        self._records = records
        self._clock = clock
        self._pepper = pepper

    async def keep(self, query: dict[str, str], client_id: str) -> str:
        """Return the `request_uri` of what a client pushed."""
        name = secrets.token_urlsafe(32)
        await self._records.put(
            Record(
                kind=PAR,
                id=self._id(name),
                owner=client_id,
                body=msgspec.json.encode({key: value for key, value in query.items() if key in _KEPT}),
                expires_at=self._clock.time() + LIFE_S,
            )
        )
        return _URN + name

    async def pushed(self, request_uri: str, client_id: str) -> Query | None:
        # It may come again within its short life: browsers reload, and all that it leads to is the question.
        if not request_uri.startswith(_URN):
            return None
        record = await self._records.get(PAR, self._id(request_uri.removeprefix(_URN)))
        if record is None or record.owner != client_id:
            return None
        return msgspec.json.decode(record.body, type=dict[str, str])

    def _id(self, name: str) -> str:
        return digest(self._pepper, f"par:{name}")


class PushEndpoint:
    """Takes requests ahead: each is checked as at the authorization endpoint."""

    def __init__(
        self,
        *,
        authentication: ClientAuthentication,
        authorizations: Authorizations,
        requests: PushedRequests,
        log: AuthLog,
        clock: Clock,
    ) -> None:
        self._authentication = authentication
        self._authorizations = authorizations
        self._requests = requests
        self._log = log
        # Whoever knows the id of a public client may push in its name.
        self._rate = Rate(clock, MAX_PER_MINUTE, 60.0)

    async def respond(self, asked: Asked) -> Answer:
        """Return the answer to one POST."""
        client: OAuthClient | None = None
        try:
            form = form_of(asked)
            client = await self._authentication.client_of(asked, form)
            if AUTHORIZATION_CODE not in client.grants:
                raise Refused("unauthorized_client", "the client is not registered for this grant")
            if "request_uri" in form:
                raise Refused("invalid_request", "request_uri cannot be pushed")  # RFC 9126 §2.1
            self._authorizations.checked(client, form)
            self._admit(asked)
            answer: dict[str, Any] = {
                "request_uri": await self._requests.keep(form, client.client_id),
                "expires_in": LIFE_S,
            }
            return 201, NO_STORE, answer
        except (PageError, RedirectError) as error:
            refusal = Refused(error.error, error.message)
        except GatewayError as error:
            refusal = unavailable(error)
        except Refused as error:
            refusal = error
        if client is not None:
            refusal.client_id = client.client_id
        return await refused(self._log, EVENT, asked, refusal)

    def _admit(self, asked: Asked) -> None:
        if len(asked.body) > MAX_BYTES:
            raise Refused("invalid_request", f"a pushed request has {MAX_BYTES} bytes at most", status=413)
        if not self._rate.admits():
            raise Refused(
                "temporarily_unavailable",
                "too many requests are pushed: wait before the next try",
                status=429,
                headers={"Retry-After": "60"},
            )
