"""API keys: their form, their digest, the pepper."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.auth import keys
from mcpgw.auth.keyfiles import private_file
from mcpgw.config import AuthSection, Settings
from mcpgw.errors import UsageError
from tests.auth.parts import PEPPER, agent_key


@pytest.mark.requirement("auth:key-form")
def test_a_key_is_recognisable_and_its_secret_has_256_bits() -> None:
    key, text = agent_key()
    assert re.fullmatch(r"mcpgw_[0-9a-z]{12}_[0-9A-Za-z]{49}", text)
    assert text.split("_")[1] == key.id
    assert 62**43 >= 2**256
    assert keys.well_formed(text)


@pytest.mark.requirement("auth:key-form")
@given(st.integers(0, 67), st.sampled_from("0123456789abcxyzABCXYZ_"))
def test_every_single_mistyped_character_is_noticed(place: int, letter: str) -> None:
    text = "mcpgw_0123456789ab_" + "a" * 43
    text += keys._checksum(text)
    assert keys.well_formed(text)
    mistyped = text[:place] + letter + text[place + 1 :]
    assert keys.well_formed(mistyped) == (mistyped == text)


@pytest.mark.requirement("auth:key-storage")
def test_only_a_keyed_digest_of_the_secret_is_kept() -> None:
    key, text = agent_key()
    secret = text.split("_")[2]
    assert key.digest == hmac.new(PEPPER, secret.encode(), hashlib.sha256).hexdigest()
    assert secret not in repr(key)
    assert key.digest not in repr(key)


@pytest.mark.requirement("auth:key-storage")
def test_the_pepper_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    first = keys.pepper(settings)
    path = tmp_path / "data" / "keys" / "pepper"
    assert len(first) >= 32
    assert keys.pepper(settings) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["pepper"]


def test_processes_that_start_together_agree_on_one_secret(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "pepper"
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda n: private_file(path, lambda: b"%d" % n), range(32)))
    assert len(made) == 1


@pytest.mark.requirement("auth:key-storage")
def test_a_pepper_that_others_can_read_is_refused(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    keys.pepper(settings)
    (tmp_path / "keys" / "pepper").chmod(0o640)
    with pytest.raises(UsageError, match="others can read"):
        keys.pepper(settings)


@pytest.mark.requirement("auth:key-storage")
def test_a_pepper_comes_by_reference_and_is_long_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path, auth=AuthSection(pepper="env:TEST_PEPPER"))
    monkeypatch.setenv("TEST_PEPPER", "p" * 32)
    assert keys.pepper(settings) == b"p" * 32
    assert not (tmp_path / "keys").exists()
    monkeypatch.setenv("TEST_PEPPER", "p" * 31)
    with pytest.raises(UsageError, match="shorter than 32 bytes") as refusal:
        keys.pepper(settings)
    assert "ppp" not in str(refusal.value)
