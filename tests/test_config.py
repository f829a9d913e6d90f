"""The configuration: read once, checked whole, with a fix for everything that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from mcpgw.config import COMMAND_ENV, Settings, load, secret
from mcpgw.errors import UsageError

FILE = {
    "data_dir": "/var/lib/mcpgw",
    "server": {"port": 9000, "allowed_hosts": ["gateway.example"]},
    "registry": {
        "stdio": [{"name": "notes", "command": ["notes-server", "--quiet"], "env": {"TOKEN": "env:NOTES_TOKEN"}}],
        "http": [{"name": "files", "url": "https://files.example/mcp", "headers": {"Authorization": "env:FILES"}}],
    },
    "llm": {"providers": [{"name": "acme", "base_url": "https://api.acme.example/v1", "api_key": "file:/run/acme"}]},
}


def written(tmp_path: Path, tree: object) -> Path:
    path = tmp_path / "mcpgw.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return path


def refusal(path: Path | None = None, environ: Mapping[str, str] | None = None, **overrides: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load(path, overrides, environ or {})
    assert caught.value.fix
    return str(caught.value)


# What is set where


@pytest.mark.requirement("config:layers")
def test_without_anything_the_defaults_are_safe() -> None:
    settings = load(environ={})
    assert settings == Settings()
    assert settings.server.loopback
    assert not settings.server.dev_no_auth
    assert settings.data_dir == Path.cwd() / "mcpgw-data"
    assert settings.store_url == f"sqlite+aiosqlite:///{settings.data_dir}/state.db"
    assert settings.audit.durability == "process"


@pytest.mark.requirement("config:layers")
def test_the_environment_goes_over_the_file_and_flags_over_both(tmp_path: Path) -> None:
    path = written(tmp_path, FILE)
    environ = {"MCPGW_SERVER__PORT": "9001", "MCPGW_SERVER__WORKERS": "4", "MCPGW_DATA_DIR": "/srv/mcpgw"}
    settings = load(path, {"server": {"port": 9002}}, environ)
    assert (settings.server.port, settings.server.workers) == (9002, 4)
    assert settings.server.allowed_hosts == ("gateway.example",)
    assert settings.data_dir == Path("/srv/mcpgw")
    assert settings.registry.stdio[0].command == ("notes-server", "--quiet")
    assert load(path, environ=environ).server.port == 9001
    assert load(path, environ={}).server.port == 9000


@pytest.mark.requirement("config:layers")
@pytest.mark.parametrize(
    ("name", "value", "section", "key", "expected"),
    [
        ("MCPGW_SERVER__ALLOWED_HOSTS", "[a.example, 'b:1']", "server", "allowed_hosts", ("a.example", "b:1")),
        ("MCPGW_SERVER__DEV_NO_AUTH", "true", "server", "dev_no_auth", True),
        ("MCPGW_SERVER__HOST", "::1", "server", "host", "::1"),
        ("MCPGW_SERVER__PUBLIC_URL", "https://g.example", "server", "public_url", "https://g.example"),
        ("MCPGW_AUTH__PEPPER", "env:PEPPER", "auth", "pepper", "env:PEPPER"),
        ("MCPGW_LIMITS__CALL_S", "1.5", "limits", "call_s", 1.5),
        ("MCPGW_AUDIT__DURABILITY", "disk", "audit", "durability", "disk"),
    ],
)  # fmt: skip
def test_the_environment_can_set_values_of_every_kind(
    name: str, value: str, section: str, key: str, expected: object
) -> None:
    assert getattr(getattr(load(environ={name: value}), section), key) == expected


@pytest.mark.requirement("config:layers")
def test_the_variables_of_the_commands_and_of_other_programs_are_no_settings() -> None:
    environ = dict.fromkeys([*COMMAND_ENV, "MCPGW_TEST_TOOLS", "MCPGATEWAY_PORT", "PATH"], "x")
    assert load(environ=environ) == Settings()


@pytest.mark.requirement("config:layers")
def test_an_empty_file_and_an_empty_section_change_nothing(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing yet\n"), environ={}) == Settings()
    assert load(written(tmp_path, "server:\n"), {"server": {"port": 1}}, {}).server.port == 1


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().server.port = 1


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"host": "::1", "port": 1}, "http://[::1]:1"),
        ({"public_url": "https://gateway.example"}, "https://gateway.example"),
    ],
)
def test_the_base_url_is_the_public_one_or_where_the_gateway_listens(server: dict[str, Any], url: str) -> None:
    assert load(overrides={"server": server}, environ={}).server.base_url == url


# What is wrong, and what to do


@pytest.mark.requirement("config:unknown-key")
@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"sever": {}}, "unknown key `sever`; did you mean `server`?"),
        ({"server": {"prot": 1}}, "unknown key `server.prot`; did you mean `port`?"),
        ({"registry": {"stdio": [{"name": "n", "comand": ["x"]}]}}, "stdio.0.comand`; did you mean `command`?"),
        ({"llm": {"providers": [{"name": "n", "base_url": "u", "apikey": "env:K"}]}}, "did you mean `api_key`?"),
        ({"audit": {"zzzz": 1}}, "unknown key `audit.zzzz`; known here: durability, fields, "),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path, tree: object, told: str) -> None:
    path = written(tmp_path, tree)
    message = refusal(path)
    assert told in message
    assert str(path) in message


@pytest.mark.requirement("config:unknown-key")
def test_an_unknown_variable_is_refused_too() -> None:
    assert "did you mean `port`?" in refusal(environ={"MCPGW_SERVER__PROT": "1"})
    assert "unknown key `port`" in refusal(environ={"MCPGW_PORT": "1"})


@pytest.mark.requirement("config:all-problems")
def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    tree = {"server": {"port": 70000, "workers": 0, "hots": "x"}, "registry": {"stdio": [{"name": "Not A Slug"}]}}
    message = refusal(written(tmp_path, tree))
    for key in ("server.port", "server.workers", "server.hots", "registry.stdio.0.name", "registry.stdio.0.command"):
        assert f"`{key}`" in message


@pytest.mark.requirement("config:bad-file")
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("server:\n  port: 1\n bad: [\n", "line 3: not valid YAML"),
        ("server: {port: 1\n", "not valid YAML"),
        ("- a\n- b\n", "expected a mapping at the top"),
        ("just words", "expected a mapping at the top"),
        ("server: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_its_place(tmp_path: Path, content: str, told: str) -> None:
    path = written(tmp_path, content)
    message = refusal(path)
    assert told in message
    assert str(path) in message


@pytest.mark.requirement("config:bad-file")
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "cannot read" in refusal(tmp_path / "absent.yaml")
    assert "cannot read" in refusal(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"server:\n  host: \xff\xfe\n")
    assert str(binary) in refusal(binary)


@pytest.mark.requirement("config:bad-file")
@pytest.mark.parametrize("value", ["[::1", "*", "{", "'", "@x", "a: b: c"])
def test_a_variable_that_cannot_be_read_is_refused_by_name_and_not_shown(value: str) -> None:
    message = refusal(environ={"MCPGW_SERVER__HOST": value})
    assert "MCPGW_SERVER__HOST" in message or "server.host" in message


@pytest.mark.requirement("config:bad-file")
@pytest.mark.parametrize("first", [0, 1])
def test_a_variable_for_a_section_and_one_for_its_key_contradict(first: int) -> None:
    pairs = [("MCPGW_SERVER", "here"), ("MCPGW_SERVER__PORT", "1")]
    assert "MCPGW_SERVER" in refusal(environ=dict([pairs[first], pairs[1 - first]]))


# Secrets


@pytest.mark.requirement("config:secrets")
def test_a_secret_is_read_from_where_its_reference_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEPPER", "from the environment")
    assert secret("env:PEPPER") == "from the environment"
    (tmp_path / "pepper").write_text("from a file\n")
    assert secret(f"file:{tmp_path / 'pepper'}") == "from a file"


@pytest.mark.requirement("config:secrets")
@pytest.mark.parametrize("text", ["sk-live-1234", "Bearer sk-live-1234", "", "base64:c2stbGl2ZQ=="])
def test_a_secret_in_the_configuration_itself_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        secret(text)
    assert "refer to it: env:NAME or file:PATH" in str(caught.value)
    assert not text or text not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.requirement("config:secrets")
@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfesecret-bytes"])
def test_an_empty_or_unreadable_secret_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "pepper").write_bytes(content)
    monkeypatch.setenv("PEPPER", content.decode("latin-1"))
    references = [f"file:{tmp_path / 'pepper'}", f"file:{tmp_path / 'absent'}", f"file:{tmp_path}", "env:ABSENT"]
    for reference in [*references, "env:PEPPER"] if not content.strip() else references:
        with pytest.raises(UsageError) as caught:
            secret(reference)
        shown = f"{caught.value} {caught.value.__cause__!r}"
        assert "secret-bytes" not in shown
        assert caught.value.__suppress_context__ or caught.value.__context__ is None  # a traceback shows neither


@pytest.mark.requirement("config:secrets")
@pytest.mark.parametrize(
    "tree",
    [
        {"llm": {"providers": [{"name": "n", "base_url": "u", "api_key": ["sk-live-1234"]}]}},
        {"auth": {"pepper": {"sk-live-1234": 1}}},
        {"auth": {"token_ttl_s": "sk-live-1234"}},
        {"audit": {"durability": "sk-live-1234"}},
        {"registry": {"stdio": [{"name": "sk-live-1234 ", "command": ["x"]}]}},
    ],
)
def test_a_value_that_is_refused_is_not_shown(tmp_path: Path, tree: object) -> None:
    assert "sk-live-1234" not in refusal(written(tmp_path, tree))


# Without authentication


@pytest.mark.requirement("config:dev-no-auth")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example", "127.0.0.1.example"])
def test_no_authentication_is_refused_off_loopback(host: str) -> None:
    message = refusal(server={"host": host, "dev_no_auth": True})
    assert f"dev_no_auth is refused on {host}" in message
    assert "bind 127.0.0.1" in message


@pytest.mark.requirement("config:dev-no-auth")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_no_authentication_is_possible_on_loopback(host: str) -> None:
    assert load(overrides={"server": {"host": host, "dev_no_auth": True}}, environ={}).server.dev_no_auth
