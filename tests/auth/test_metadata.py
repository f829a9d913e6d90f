"""What is published, and what a refusal points to."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import httpx2
import pytest
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from joserfc.jwk import ECKey
from mcp.client.auth.utils import extract_field_from_www_auth
from mcp.shared.auth import OAuthMetadata, ProtectedResourceMetadata

from mcpgw.auth.challenge import Challenges
from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.metadata import ID_JAG_PROFILE, Metadata, Supported
from mcpgw.auth.scopes import ADMIN_SCOPES
from mcpgw.auth.signing import SigningKeys
from mcpgw.errors import UsageError
from tests.auth.parts import BASE, Identity

KNOWN = f"{BASE}/.well-known/oauth-protected-resource"


@pytest.mark.requirement("auth:metadata")
@pytest.mark.parametrize(
    ("path", "resource", "scopes"),
    [
        ("", "/mcp", ["mcp:use"]),
        ("/mcp", "/mcp", ["mcp:use"]),
        ("/mcp/notes", "/mcp/notes", ["mcp:use"]),
        ("/mcp/notes@1.2.0", "/mcp/notes@1.2.0", ["mcp:use"]),
        ("/v1", "/v1", ["llm:use"]),
        ("/admin/v1", "/admin/v1", sorted(ADMIN_SCOPES)),
    ],
)
def test_each_endpoint_has_its_own_metadata(identity: Identity, path: str, resource: str, scopes: list[str]) -> None:
    document = Metadata(identity.endpoints, identity.signing).protected_resource(path)
    assert document == {
        "resource": BASE + resource,
        "authorization_servers": [BASE],
        "scopes_supported": scopes,
        "bearer_methods_supported": ["header"],
        "resource_name": "mcpgw",
    }
    ProtectedResourceMetadata.model_validate(document)


@pytest.mark.requirement("auth:metadata")
@pytest.mark.parametrize("path", ["/", "/mcp/", "/mcp/a/b", "/console", "/v1/models", "/mcp/UP", "/mcp/a" + "b" * 24])
def test_what_is_no_endpoint_has_no_metadata(identity: Identity, path: str) -> None:
    assert Metadata(identity.endpoints, identity.signing).protected_resource(path) is None


@pytest.mark.requirement("auth:metadata")
@pytest.mark.requirement("as:metadata")
def test_the_authorization_server_promises_what_it_does(identity: Identity) -> None:
    document = Metadata(identity.endpoints, identity.signing).authorization_server()
    assert document["issuer"] == BASE
    assert document["grant_types_supported"] == ["client_credentials"]
    assert document["response_types_supported"] == ["code"]
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert document["authorization_response_iss_parameter_supported"] is True
    assert document["client_id_metadata_document_supported"] is False
    assert "none" not in document["introspection_endpoint_auth_methods_supported"]
    assert not {"registration_endpoint", "authorization_grant_profiles_supported"} & document.keys()
    assert document["token_endpoint"] == f"{BASE}/oauth/token"
    OAuthMetadata.model_validate(document)
    AuthorizationServerMetadata(document).validate()


@pytest.mark.requirement("as:metadata")
def test_what_is_switched_on_is_promised(identity: Identity) -> None:
    everything = Supported(grants=("b", "a"), registration=True, documents=True, id_jag=True)
    document = Metadata(identity.endpoints, identity.signing, everything).authorization_server()
    assert document["grant_types_supported"] == ["a", "b"]
    assert document["registration_endpoint"] == f"{BASE}/oauth/register"
    assert document["client_id_metadata_document_supported"] is True
    assert document["authorization_grant_profiles_supported"] == [ID_JAG_PROFILE]


@pytest.mark.requirement("auth:signing-key")
def test_public_keys_alone_are_published(identity: Identity) -> None:
    (key,) = Metadata(identity.endpoints, identity.signing).jwks()["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert (key["kid"], key["alg"]) == (identity.signing.kid, "ES256")
    assert ECKey.import_key({n: key[n] for n in ("kty", "crv", "x", "y")}).thumbprint() == key["kid"]


@pytest.mark.requirement("auth:signing-key")
def test_the_signing_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    first = SigningKeys.load(tmp_path)
    path = tmp_path / "keys" / "token-signing.pem"
    assert SigningKeys.load(tmp_path).kid == first.kid
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.requirement("auth:signing-key")
@pytest.mark.parametrize("content", [b"", b"rubbish", ECKey.generate_key("P-384").as_pem(private=True)])
def test_a_signing_key_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    SigningKeys.load(tmp_path)
    (tmp_path / "keys" / "token-signing.pem").write_bytes(content)
    with pytest.raises(UsageError, match="P-256"):
        SigningKeys.load(tmp_path)


@pytest.mark.parametrize("base", ["https://h/gateway", "gateway.example", "ftp://h", "https://h?x", "https://"])
def test_a_gateway_has_a_host_of_its_own(base: str) -> None:
    with pytest.raises(UsageError, match="public_url"):
        Endpoints(base)


@pytest.mark.requirement("auth:challenge")
def test_a_401_names_the_metadata_and_the_scopes_of_its_endpoint(identity: Identity) -> None:
    challenges = Challenges(identity.endpoints)
    assert challenges.unauthenticated("/mcp/notes") == (
        f'Bearer resource_metadata="{KNOWN}/mcp/notes", scope="mcp:use"'
    )
    assert challenges.unauthenticated("/v1/chat/completions", presented=True) == (
        f'Bearer error="invalid_token", resource_metadata="{KNOWN}/v1", scope="llm:use"'
    )
    assert f'resource_metadata="{KNOWN}/admin/v1"' in challenges.unauthenticated("/admin/v1/keys")


@pytest.mark.requirement("auth:challenge")
def test_a_403_names_every_scope_that_is_needed(identity: Identity) -> None:
    value = Challenges(identity.endpoints).insufficient_scope("/admin/v1/keys", "keys:write admin", "not enough")
    assert value == (
        'Bearer error="insufficient_scope", error_description="not enough", scope="keys:write admin", '
        f'resource_metadata="{KNOWN}/admin/v1"'
    )


@pytest.mark.requirement("auth:challenge")
@pytest.mark.parametrize(
    "hostile", ['/mcp/a"b', "/mcp/a\r\nSet-Cookie: x", "/mcp/é", '/"><script>', "/mcp/a\\", "", "x"]
)
def test_nothing_of_a_request_breaks_out_of_a_challenge(identity: Identity, hostile: str) -> None:
    challenges = Challenges(identity.endpoints)
    assert challenges.unauthenticated(hostile) == f'Bearer resource_metadata="{KNOWN}/mcp", scope="mcp:use"'
    value = challenges.insufficient_scope(hostile, hostile, hostile)
    assert re.fullmatch(r'Bearer (?:[a-z_]+="[\x20\x21\x23-\x5b\x5d-\x7e]*"(?:, )?){4}', value)


@pytest.mark.requirement("auth:challenge")
def test_the_sdk_reads_our_challenges(identity: Identity) -> None:
    value = Challenges(identity.endpoints).unauthenticated("/mcp/notes")
    response = httpx2.Response(401, headers={"WWW-Authenticate": value})
    assert extract_field_from_www_auth(response, "resource_metadata") == f"{KNOWN}/mcp/notes"
    assert extract_field_from_www_auth(response, "scope") == "mcp:use"
