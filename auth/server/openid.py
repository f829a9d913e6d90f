"""Our side of an OpenID provider: its metadata, its token endpoint, and what its ID tokens say.

Everything goes through the vetted fetcher. Authlib has the claims of an ID token (OpenID Connect Core §3.1.3.7), not
the fetching: its clients resolve and connect by themselves.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc.errors import JoseError

from mcpgw.auth.compact import UNTRUSTED, Compact
from mcpgw.auth.fetch import Fetcher, Request, Response, json_object
from mcpgw.auth.jwks import IssuerKeys
from mcpgw.auth.server.sign_in import SignInFailed
from mcpgw.errors import FetchFailed, Unauthenticated
from mcpgw.ports import Clock
from mcpgw.sign_in_section import SignInSection

METADATA_S = 3600.0
_FORM = "application/x-www-form-urlencoded"
# Errors of RFC 6749 §4.1.2.1 and §5.2 and of OpenID Connect Core §3.1.2.6 that may stand on a page as they are.
_ERRORS = frozenset(
    {
        "access_denied",
        "account_selection_required",
        "consent_required",
        "interaction_required",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "login_required",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_response_type",
    }
)


class OpenIdProvider:
    """Implements sign_in.Provider for one of the configuration. `secret` None: we are a public client there."""

    def __init__(
        self, section: SignInSection, fetcher: Fetcher, clock: Clock, *, redirect_uri: str, secret: str | None
    ) -> None:
        self._section = section
        self._fetcher = fetcher
        self._clock = clock
        self._redirect_uri = redirect_uri
        self._secret = secret
        self._keys = IssuerKeys(section.as_issuer(), fetcher.fetch, clock)
        self._metadata: Mapping[str, Any] = {}
        self._fresh_until = float("-inf")

    async def authorization_url(self, *, state: str, nonce: str, verifier: str, hint: str | None) -> str:
        metadata = await self.metadata()
        asked = {
            "response_type": "code",
            "client_id": self._section.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": " ".join(self._section.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": create_s256_code_challenge(verifier),
            "code_challenge_method": "S256",
            **({"login_hint": hint} if hint else {}),
        }
        endpoint = str(metadata["authorization_endpoint"])
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    async def check_answer(self, query: Mapping[str, str]) -> str:
        issuer = query.get("iss")
        required = (await self.metadata()).get("authorization_response_iss_parameter_supported") is True
        # Another provider's answer (mix-up) would make us send its code to this one, or the reverse: RFC 9207 §2.4.
        if issuer != self._section.issuer and (issuer is not None or required):
            raise SignInFailed(
                "the answer is not from the provider that was asked", fix="sign in again", reason="iss of another"
            )
        if "error" in query:
            raise _refused(query["error"])
        if not query.get("code"):
            raise SignInFailed("the identity provider's answer has no code", fix="sign in again")
        return query["code"]

    async def tokens(self, code: str, verifier: str) -> Mapping[str, Any]:
        metadata = await self.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        headers = {"content-type": _FORM}
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if self._secret is None:
            form["client_id"] = self._section.client_id
        elif "client_secret_basic" in methods:
            # Both are form-encoded before they are joined: RFC 6749 §2.3.1.
            pair = f"{quote(self._section.client_id, safe='')}:{quote(self._secret, safe='')}"
            headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form |= {"client_id": self._section.client_id, "client_secret": self._secret}
        url = str(metadata["token_endpoint"])
        body = urlencode(form).encode()
        response = await self._fetcher.fetch(Request(url, method="POST", headers=headers, body=body))
        if response.status != 200:
            raise _refused(_error_of(response))
        return json_object(response)

    async def claims(self, tokens: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        access_token = tokens.get("access_token")
        claims = await self._id_token(tokens.get("id_token"), nonce, access_token)
        endpoint = (await self.metadata()).get("userinfo_endpoint")
        if not isinstance(endpoint, str) or not isinstance(access_token, str):
            return claims
        headers = {"authorization": f"Bearer {access_token}"}
        response = await self._fetcher.fetch(Request(endpoint, headers=headers, types=("application/json",)))
        if response.status != 200:
            raise FetchFailed("the identity provider does not tell who this is", fix="try again later")
        told = json_object(response)
        if told.get("sub") != claims["sub"]:  # OpenID Connect Core §5.3.2: else it is about somebody else
            raise SignInFailed("the identity provider speaks of somebody else", fix="sign in again")
        return {**told, **claims}

    async def metadata(self) -> Mapping[str, Any]:
        """Return the provider's metadata (OpenID Connect Discovery §4). Raises GatewayError."""
        now = self._clock.monotonic()
        if now < self._fresh_until:
            return self._metadata
        place = self._section.issuer.rstrip("/") + "/.well-known/openid-configuration"
        response = await self._fetcher.fetch(Request(place))
        if response.status != 200:
            raise FetchFailed("the identity provider has no metadata", fix="check auth.sign_in.issuer")
        metadata = json_object(response)
        if metadata.get("issuer") != self._section.issuer:  # to the character: Discovery §4.3
            raise FetchFailed("the metadata are of another issuer", fix="check auth.sign_in.issuer, to the character")
        for name in ("authorization_endpoint", "token_endpoint"):
            self._fetcher.check(str(metadata.get(name)))
        self._metadata, self._fresh_until = metadata, now + METADATA_S
        return metadata

    async def _id_token(self, token: object, nonce: str, access_token: object) -> Mapping[str, Any]:
        if not isinstance(token, str):
            raise SignInFailed("the identity provider gave no ID token", fix="ask an administrator")
        try:
            read = Compact(token)
            await self._check_signature(read)
            options = {
                "iss": {"essential": True, "value": self._section.issuer},
                "aud": {"essential": True, "value": self._section.client_id},
                "nonce": {"essential": True, "value": nonce},
            }
            params = {"client_id": self._section.client_id, "nonce": nonce, "access_token": access_token}
            said = CodeIDToken(read.claims, read.header, options, params)
            said.validate(now=int(self._clock.time()), leeway=self._section.leeway_s)
        except (JoseError, ValueError, TypeError, LookupError, AttributeError, Unauthenticated) as error:
            raise SignInFailed(
                "the identity provider's ID token does not hold", fix="sign in again", reason=f"ID token: {error}"
            ) from None
        if not isinstance(read.claims.get("sub"), str):
            raise SignInFailed("the identity provider's ID token names nobody", fix="ask an administrator")
        return read.claims

    async def _check_signature(self, token: Compact) -> None:
        algorithm, kid = token.text("alg"), token.text("kid")
        if not UNTRUSTED.isdisjoint(token.header) or token.header.get("typ", "JWT") not in {"JWT", "jwt"}:
            raise ValueError("a header that ID tokens do not have")
        if algorithm is None or kid is None or algorithm not in self._section.algorithms:
            raise ValueError("no key id, or an algorithm that is not accepted")
        if not token.signed_by(await self._keys.find(kid, algorithm), algorithm):
            raise ValueError("a signature that does not hold")


def _error_of(response: Response) -> str:
    try:
        return str(json_object(response).get("error"))
    except FetchFailed:
        return ""


def _refused(error: str) -> SignInFailed:
    known = error if error in _ERRORS else "an error that OpenID does not know"
    return SignInFailed(f"the identity provider answered {known}", fix="sign in again, or ask an administrator")
