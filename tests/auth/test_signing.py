"""The keys of our tokens, and how new ones take over."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from mcpgw.auth.signing import KEPT_S, SigningKeys, rotate
from mcpgw.errors import UsageError
from tests.auth.parts import START


def file(home: Path) -> Path:
    return home / "keys" / "token-signing.pem"


@pytest.mark.requirement("as:key-rotation")
def test_a_new_key_signs_in_every_worker_and_what_the_old_one_signed_holds(tmp_path: Path) -> None:
    one, other = SigningKeys.load(tmp_path), SigningKeys.load(tmp_path)
    before = one.sign({"typ": "x"}, {"n": 1})
    old, generation = one.kid, one.generation
    new = rotate(tmp_path, START)
    assert one.kid == old, "until it looks"
    assert other.find(new) is not None, "a token that another worker has just signed"
    one.refresh(START)
    assert (one.kid, other.kid) == (new, new) and old != new
    assert one.generation != generation
    published = KeySet.import_key_set(dict(one.jwks()))
    for token, kid in ((before, old), (one.sign({"typ": "x"}, {"n": 2}), new)):
        assert jwt.decode(token, published, ["ES256"]).header["kid"] == kid
    assert stat.S_IMODE(file(tmp_path).stat().st_mode) == 0o600


@pytest.mark.requirement("as:key-rotation")
def test_an_old_key_goes_when_its_last_token_has_expired(tmp_path: Path) -> None:
    keys = SigningKeys.load(tmp_path)
    first = keys.kid
    second = rotate(tmp_path, START)
    keys.refresh(START + KEPT_S - 1)
    assert keys.find(first) is not None
    keys.refresh(START + KEPT_S)
    assert keys.find(first) is None and keys.find(second) is not None
    third = rotate(tmp_path, START + KEPT_S)
    assert SigningKeys.load(tmp_path).find(first) is None
    assert [entry["kid"] for entry in SigningKeys.load(tmp_path).jwks()["keys"]] == [third, second]


@pytest.mark.requirement("as:key-rotation")
def test_a_key_that_others_may_have_goes_at_once(tmp_path: Path) -> None:
    keys = SigningKeys.load(tmp_path)
    first = keys.kid
    new = rotate(tmp_path, START, at_once=True)
    keys.refresh(START)
    assert (keys.kid, keys.find(first)) == (new, None)


@pytest.mark.requirement("as:key-rotation")
@pytest.mark.parametrize("content", [b"", b"rubbish", None])
def test_a_file_that_cannot_be_read_ends_nothing(tmp_path: Path, content: bytes | None) -> None:
    keys = SigningKeys.load(tmp_path)
    kid = keys.kid
    file(tmp_path).unlink() if content is None else file(tmp_path).write_bytes(content)
    keys.refresh(START)
    assert keys.kid == kid and keys.find("unknown") is None


@pytest.mark.requirement("as:key-rotation")
def test_a_file_whose_first_key_is_retired_has_none_to_sign_with(tmp_path: Path) -> None:
    SigningKeys.load(tmp_path)
    file(tmp_path).write_bytes(b"retired 1\n" + file(tmp_path).read_bytes())
    with pytest.raises(UsageError):
        SigningKeys.load(tmp_path)
