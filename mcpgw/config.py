"""Settings: read once, frozen. One YAML file, the environment (`MCPGW_…`) over it, flags over both.

State (servers' versions, policies, kill switches, keys) is not here: it changes while the gateway runs.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from mcpgw.auth_section import AuthSection
from mcpgw.errors import UsageError
from mcpgw.http_section import HttpServer
from mcpgw.openapi_section import OpenApiServer
from mcpgw.section import Section, Slug
from mcpgw.toolset_section import WithToolsets

ENV_PREFIX = "MCPGW_"
# Environment variables of the commands, not of the settings.
COMMAND_ENV = frozenset({"MCPGW_URL", "MCPGW_KEY", "MCPGW_DIR", "MCPGW_CONFIG"})


class ServerSection(Section):
    """Where the gateway listens."""

    host: str = "127.0.0.1"
    """Address to bind."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to bind."""
    workers: int = Field(default=1, ge=1, le=64)
    """Worker processes."""
    public_url: str | None = None
    """The URL that clients use, without a trailing slash; default: http://{host}:{port}."""
    allowed_hosts: tuple[str, ...] = ()
    """Further values of the Host header that are accepted (`gateway.example`, with port if not the default)."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may call (`https://app.example`); others get 403."""
    dev_no_auth: bool = False
    """Everyone may do everything; only on a loopback address, for development and conformance runs."""

    @property
    def base_url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url or f"http://{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        return self.host in {"127.0.0.1", "::1", "localhost"}

    @model_validator(mode="after")
    def _dev_only_on_loopback(self) -> ServerSection:
        if self.dev_no_auth and not self.loopback:
            raise ValueError(f"dev_no_auth is refused on {self.host}: bind 127.0.0.1, or use keys")
        return self


class StoreSection(Section):
    """Where state is kept."""

    url: str | None = None
    """SQLAlchemy URL; default: SQLite in `state.db` of the data directory."""


class ProcessLimits(Section):
    """Resource limits of each process of a server (setrlimit); it inherits them to what it starts."""

    memory_bytes: int | None = Field(default=None, ge=1)
    """Address space (RLIMIT_AS). Node.js reserves far more than it uses."""
    cpu_s: int | None = Field(default=None, ge=1)
    """Processor time in all its life (RLIMIT_CPU)."""
    files: int = Field(default=1024, ge=8)
    """Open files (RLIMIT_NOFILE)."""
    processes: int | None = Field(default=None, ge=1)
    """Processes and threads of the user it runs as, the gateway's own among them (RLIMIT_NPROC); not for root."""
    file_bytes: int | None = Field(default=None, ge=0)
    """Size of a file that it writes (RLIMIT_FSIZE)."""


class StdioServer(Section):
    """A server that the gateway runs as a process and speaks to over its standard input and output."""

    name: Slug
    """Its slug."""
    command: tuple[str, ...] = Field(min_length=1)
    """Exact argument vector; no shell."""
    env: Mapping[str, str] = Field(default_factory=dict)
    """Environment of the process, besides PATH, HOME and LANG; values may be references (`env:NAME`)."""
    cwd: str | None = None
    """Working directory."""
    per: Literal["shared", "principal", "session"] = "shared"
    """Whose a process is: one for all callers, one for each principal, or one for each session of a client."""
    max_processes: int = Field(default=10, ge=1)
    """Processes at once, where they are not shared."""
    idle_s: float = Field(default=300.0, gt=0)
    """Time without a call after which a process that is not shared is ended."""
    limits: ProcessLimits = ProcessLimits()
    """Resource limits of each process."""
    title: str = ""
    """Name for people."""
    tags: tuple[str, ...] = ()
    """Tags that policies see as `server.tags`."""
    trust: str = "untrusted"
    """What policies see as `server.trust`."""
    idempotent: tuple[str, ...] = ()
    """Tools whose calls may be repeated when they fail, because twice is no worse than once; `*`: all of them."""


class RegistrySection(WithToolsets):
    """Servers that the operator declares, and what others may be registered."""

    stdio: tuple[StdioServer, ...] = ()
    """Servers run as processes; only this file can declare them."""
    http: tuple[HttpServer, ...] = ()
    """Servers reached over HTTP, with headers that only this file can set."""
    openapi: tuple[OpenApiServer, ...] = ()
    """REST APIs as servers; only this file can declare them."""
    allow_networks: tuple[str, ...] = ()
    """Networks (CIDR) that are not public and may hold HTTP servers; loopback is allowed while the gateway itself
    listens on loopback only."""
    drift_check_s: float = Field(default=30.0, ge=0.5)
    """Seconds between comparisons of each active server's live tools with their pins."""


class PoliciesSection(Section):
    """Limits of policy evaluation."""

    bundle: str | None = None
    """Directory of Rego files loaded at the first start, when no policy is active; default: deny everything."""
    max_input_bytes: int = Field(default=262_144, ge=1024)
    """A policy input larger than this is denied."""


class AuditSection(Section):
    """The log."""

    durability: Literal["process", "disk"] = "process"
    """`process`: a record survives the death of every gateway process; `disk`: also loss of power."""
    fields: tuple[str, ...] = ()
    """JSON pointers into a call's arguments whose values are recorded in clear."""
    segment_bytes: int = Field(default=16 * 1024 * 1024, ge=65_536)
    """Size of one file of a log."""
    reserve_bytes: int = Field(default=1024 * 1024, ge=4096)
    """Room kept for outcomes and kill switches when the disk is full."""
    refusals_per_s: int = Field(default=50, ge=1)
    """Unauthenticated requests recorded one by one, per second and worker; beyond that they are counted."""


class Provider(Section):
    """An LLM provider with OpenAI's API."""

    name: Slug
    """Its slug; models are `{name}/{model}`."""
    base_url: str
    """Base URL up to and including the version (`https://api.openai.com/v1`)."""
    api_key: str | None = None
    """Reference to its key (`env:OPENAI_API_KEY`)."""
    models: tuple[str, ...] = ()
    """Models offered; empty: whatever the caller names as `{name}/{model}` and the policy allows."""
    price_provider: str | None = None
    """Provider id in the price list, when it is not `name`."""


class LlmSection(Section):
    """The LLM route."""

    providers: tuple[Provider, ...] = ()
    """Providers, in order of preference for a model named without a provider."""


class LimitsSection(Section):
    """Defaults of every limit."""

    header_bytes: int = Field(default=32_768, ge=1024)
    """All headers of a request."""
    body_bytes: int = Field(default=1_048_576, ge=1024)
    """Body of a request."""
    json_depth: int = Field(default=64, ge=4)
    """Nesting of a JSON body."""
    json_keys: int = Field(default=10_000, ge=100)
    """Members of all objects of a JSON body together."""
    json_string_bytes: int = Field(default=1_048_576, ge=1024)
    """Text of one string of a JSON body."""
    head_read_s: float = 5.0
    """Time for the head of a request to arrive."""
    body_read_s: float = 10.0
    """Time for a request body to arrive."""
    write_stall_s: float = 10.0
    """Time that a client may leave what was sent to it unread."""
    idle_s: float = 75.0
    """Time that a connection is kept between two requests."""
    connect_s: float = 2.0
    """Time to connect to an upstream."""
    first_byte_s: float = 30.0
    """Time for an upstream's answer to begin."""
    call_s: float = 60.0
    """Time for a call that is not a stream."""
    list_s: float = Field(default=5.0, gt=0)
    """Time for a server's part of a list over several servers."""
    stream_idle_s: float = 60.0
    """Silence after which a stream is ended."""
    stream_s: float = 600.0
    """Life of a stream."""
    result_bytes: int = Field(default=10 * 1024 * 1024, ge=1024)
    """Body of an upstream's answer, and one event of a stream."""
    per_principal: int = Field(default=50, ge=1)
    """Running calls of one principal, per worker."""
    per_upstream: int = Field(default=100, ge=1)
    """Running calls to one upstream, per worker."""
    retries: int = Field(default=2, ge=0, le=5)
    """Repetitions of a failed call of a tool that is marked idempotent, before any part of its answer has left."""
    retries_per_s: float = Field(default=5.0, ge=0)
    """Such repetitions of all calls of one server, per worker."""
    page_tools: int = Field(default=1000, ge=1)
    """Tools on one page of a list."""
    sessions: int = Field(default=10_000, ge=1)
    """Legacy sessions, per worker."""
    session_idle_s: float = 1800.0
    """Idle time after which a legacy session ends."""
    held: int = Field(default=1000, ge=1)
    """Calls that wait for an answer of their caller (elicitation, sampling, roots), per worker."""
    held_per_principal: int = Field(default=8, ge=1)
    """Such calls of one principal, per worker."""
    held_s: float = Field(default=300.0, gt=0)
    """Time for the caller to answer; then the server is told that the call is cancelled."""


class TelemetrySection(Section):
    """Logs."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""


class Settings(Section):
    """The whole configuration."""

    data_dir: Path = Field(default=Path("mcpgw-data"), validate_default=True)
    """Directory of state, keys, log and sockets."""
    server: ServerSection = ServerSection()
    store: StoreSection = StoreSection()
    auth: AuthSection = AuthSection()
    registry: RegistrySection = RegistrySection()
    policies: PoliciesSection = PoliciesSection()
    audit: AuditSection = AuditSection()
    llm: LlmSection = LlmSection()
    limits: LimitsSection = LimitsSection()
    telemetry: TelemetrySection = TelemetrySection()

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def store_url(self) -> str:
        return self.store.url or f"sqlite+aiosqlite:///{self.data_dir / 'state.db'}"


def load(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings of a file, the environment over it, and `overrides` (nested mappings) over both.

    Raises UsageError that lists every problem with its key and a fix.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read(path)
    _merge(tree, _from_environment(os.environ if environ is None else environ))
    _merge(tree, overrides or {})
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        source = str(path) if path else "configuration"
        lines = [f"{source}: {line}" for line in _problems(error)]
        raise UsageError("\n".join(lines), fix="mcpgw check-config shows every problem") from None


def secret(reference: str) -> str:
    """Return the secret that a reference names: `env:NAME` or `file:PATH`. Raises UsageError, which never shows it."""
    kind, _, where = reference.partition(":")
    if kind == "env":
        value, what = os.environ.get(where, ""), f"environment variable {where}"
    elif kind == "file":
        value, what = _secret_file(Path(where).expanduser()), f"secret file {where}"
    else:
        raise UsageError("a secret stands in the configuration itself", fix="refer to it: env:NAME or file:PATH")
    if not value.strip():
        raise UsageError(f"the {what} is not set, or empty", fix="put the secret there")
    return value


def _secret_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(f"cannot read the secret file {path}: {error.strerror}", fix="check path and mode") from None
    except UnicodeDecodeError:
        raise UsageError(f"the secret file {path} is not text in UTF-8", fix="encode it, say in base64") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", fix="give --config an existing YAML file") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not text in UTF-8", fix="save it as UTF-8") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        raise UsageError(f"{path}{line}: not valid YAML", fix="check indentation and quoting there") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: expected a mapping at the top", fix="start with `server:`")
    return tree


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Map `MCPGW_SERVER__PORT=9000` to {"server": {"port": 9000}}; values are YAML scalars or flow collections."""
    tree: dict[str, Any] = {}
    for name, value in sorted(environ.items()):  # a section before its keys
        if not name.startswith(ENV_PREFIX) or name in COMMAND_ENV or name.startswith("MCPGW_TEST_"):
            continue
        *sections, key = name.removeprefix(ENV_PREFIX).lower().split("__")
        node: Any = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UsageError(f"{name}: `{section}` is set as a whole too", fix=f"unset {name}, or the other one")
        try:
            node[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"{name}: not valid YAML", fix="put the value in quotes within the quotes") from None
    return tree


def _merge(tree: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        held = tree.get(key)
        if isinstance(value, Mapping) and isinstance(held, dict):
            _merge(held, value)
        elif isinstance(value, Mapping):
            tree[key] = dict(value)
        else:
            tree[key] = value


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False):
        where = ".".join(str(step) for step in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _known_keys(problem["loc"][:-1])
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(sorted(known))}"
            yield f"unknown key `{where}`; {hint}"
        else:
            yield f"`{where}`: {problem['msg'].removeprefix('Value error, ')}"


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    model: Any = Settings
    for step in path:
        if isinstance(step, int):
            continue
        annotation = model.model_fields[step].annotation
        inner = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = inner[0] if inner else annotation
    return list(model.model_fields)
