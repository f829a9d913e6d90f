"""What a client asks of our authorization server, and of a user there."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One POST of a client, as it came. `source` is the address that it came from, `endpoint` the path it came to."""

    endpoint: str
    body: bytes = field(default=b"", repr=False)
    content_type: str | None = None
    authorization: str | None = field(default=None, repr=False)
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRequest:
    """An authorization request that has been checked (OAuth 2.1 §4.1.1): the user may be asked about it.

    `endpoint` is the path that its `resource` names, `scopes` those that mean something there and that the client may
    have; the user's own are fewer, perhaps. `redirect_uri` is where the answer goes, and `redirect_given` says that the
    request named it, so that the token request must too. `challenge` is the S256 code challenge. `prompt` and
    `login_hint` are OpenID's (Core §3.1.2.1): what the user is to be asked in any case, and who is expected.
    """

    client_id: str
    redirect_uri: str
    redirect_given: bool
    endpoint: str
    scopes: frozenset[str]
    challenge: str
    state: str | None = None
    prompt: frozenset[str] = frozenset()
    login_hint: str | None = None
