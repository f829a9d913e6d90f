"""Finding a gateway, and a small client of its admin API over `http.client`: it starts in milliseconds."""

from __future__ import annotations

import http.client
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from mcpgw.errors import GatewayError, Internal, UpstreamFailed, UpstreamUnreachable, UsageError

DEFAULT_DIR = Path("mcpgw-data")
QUICKSTART = "quickstart.json"
PREFIX = "/admin/v1"
# A kill waits for every worker of every node; anything else answers sooner.
TIMEOUT_S = 60.0
_ERRORS: Mapping[str, type[GatewayError]] = {kind.code: kind for kind in GatewayError.__subclasses__()}


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway and the credential for it."""

    base_url: str
    key: str = field(repr=False)


def find(url: str | None, key: str | None, directory: Path | None, *, which: str) -> Gateway:
    """Return the gateway that a command is for.

    `url` and `key` as given, else from `quickstart.json` in `directory` (`which` names the key there). A key from the
    file goes to the URL in the same file, never to another. Raises UsageError.
    """
    if url and key:
        return Gateway(_checked(url), key)
    path = (directory or DEFAULT_DIR) / QUICKSTART
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        base_url, file_key = str(known["base_url"]), str(known[which])
    except FileNotFoundError:
        missing = "--key" if url else "--url and --key"
        raise UsageError(
            f"no gateway known: {path} does not exist", fix=f"run `mcpgw quickstart`, or give {missing}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"cannot read {path}", fix="run `mcpgw quickstart` again, or give --url and --key") from None
    if key:
        return Gateway(base_url, key)
    if url and _checked(url) != base_url:
        raise UsageError(f"no key for {url}: the one in {path} is for {base_url}", fix="give --key")
    return Gateway(base_url, file_key)


def keep(directory: Path, document: Mapping[str, Any]) -> None:
    """Write `quickstart.json`, readable by its owner alone, in one step."""
    path = directory / QUICKSTART
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR), "w") as file:
        json.dump(document, file, indent=2)
    fresh.replace(path)


@dataclass(frozen=True, slots=True)
class Api:
    """The admin API of one gateway."""

    gateway: Gateway

    def get(self, path: str, **query: Any) -> Any:
        given = {name: _text(value) for name, value in query.items() if value is not None}
        return self._ask("GET", f"{path}?{urlencode(given)}" if given else path)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Post an object, without those of its members that are None."""
        return self._ask("POST", path, {name: value for name, value in (body or {}).items() if value is not None})

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._ask("PUT", path, body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._ask("PATCH", path, body)

    def delete(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._ask("DELETE", path, body)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.gateway.key}", "Accept": "application/json"}
        data = json.dumps(body).encode() if body else None
        if data:
            headers["Content-Type"] = "application/json"
        status, answer = request(self.gateway.base_url, method, PREFIX + path, data, headers)
        if status < 400:
            return answer
        error = answer.get("error")
        if not isinstance(error, dict):
            raise UpstreamFailed(f"{self.gateway.base_url} answered {status} without an error document")
        kind = _ERRORS.get(str(error.get("code")), Internal)
        raise kind(str(error.get("message")), fix=str(error.get("fix", "")), data=error.get("data") or {})


def path_of(*segments: str) -> str:
    """Return a path of these segments, each escaped."""
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


def request(
    base_url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Return status and JSON object of one request. Raises UpstreamUnreachable, UpstreamFailed."""
    where = urlsplit(base_url)
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    connection = kind(where.hostname or "", where.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, where.path.rstrip("/") + path, body, dict(headers or {}))
        response = connection.getresponse()
        answer = json.loads(response.read())
        if not isinstance(answer, dict):
            raise ValueError(answer)
        return response.status, answer
    except TimeoutError:
        raise UpstreamFailed(f"{base_url} did not answer within {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise UpstreamUnreachable(
            f"no gateway answers at {base_url}: {error.strerror or error}",
            fix="start one: `mcpgw serve` (or `mcpgw quickstart`), or give the right --url",
        ) from None
    except (http.client.HTTPException, ValueError):
        raise UpstreamFailed(f"{base_url} does not answer like an mcpgw gateway", fix="check --url") from None
    finally:
        connection.close()


def _checked(url: str) -> str:
    where = urlsplit(url)
    if where.scheme not in {"http", "https"} or not where.hostname:
        raise UsageError(f"`{url}` is not the URL of a gateway", fix="for example --url http://127.0.0.1:8080")
    return url.rstrip("/")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
