"""The same policies on an OPA server: for those who run OPA anyway. One round trip for each question."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from opa_client import AsyncOpaClient
from opa_client.errors import DeletePolicyError, RegoParseError

from mcpgw.domain import Decision
from mcpgw.errors import InvalidRequest, Unavailable
from mcpgw.policies import output
from mcpgw.policies.bundle import PACKAGE, Bundle
from mcpgw.policies.input import Inputs
from mcpgw.ports import Question

TIMEOUT_S = 0.2
PREFIX = "mcpgw/"
DECIDING = f"{PREFIX}decision/"
# A built-in that fails is an error for the embedded interpreter too.
_STRICT = {"strict-builtin-errors": "true"}
# ValueError: an answer that is no JSON, a question that cannot be written down. RuntimeError: the session is closed.
_FAILURES = (
    aiohttp.ClientError,
    msgspec.MsgspecError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TimeoutError,
    TypeError,
    ValueError,
)


class OpaServerEngine:
    """Implements `ports.PolicyEngine` over an OPA server that nobody else puts policies on."""

    def __init__(self, bundle: Bundle, *, max_input_bytes: int, host: str, port: int = 8181, **options: Any) -> None:
        """`options` are AsyncOpaClient's: `ssl`, `cert`, `token`, `headers`."""
        self._bundle = bundle
        self._max_input_bytes = max_input_bytes
        self._client = AsyncOpaClient(host=host, port=port, retries=0, timeout=TIMEOUT_S, **options)
        self._inputs = Inputs()

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, tb)

    @property
    def sha256(self) -> str:
        return self._bundle.sha256

    async def push(self) -> None:
        """Put the bundle on the server, in place of any earlier one. Raises Unavailable, InvalidRequest.

        OPA takes one module at a time. Those that name `decision` go first and come last, so that between two bundles
        everything is undefined, which denies.
        """
        client = self._client
        try:
            held = [path for path in await client.get_policies_list() if path.startswith(PREFIX)]
            for path in sorted(held, key=lambda path: not path.startswith(DECIDING)):
                await client.delete_policy(path)
            await client.update_or_create_data(msgspec.json.decode(self._bundle.data), "")
            for path, text in sorted(self._bundle.modules, key=lambda module: "decision" in module[1]):
                where = DECIDING if "decision" in text else PREFIX
                await client.update_policy_from_string(text, where + path, rego_compat=False)
        except RegoParseError as error:
            raise InvalidRequest(f"OPA refuses the policy: {error}", fix="opa check shows the same") from None
        except (DeletePolicyError, *_FAILURES) as error:
            raise Unavailable(
                "OPA cannot be reached", fix="check its address, and that it runs", cause=error
            ) from error

    async def decide(self, question: Question) -> Decision:
        """Return the decision; whatever goes wrong is a deny."""
        try:
            document = self._inputs.whole(question, self._inputs.head(question))
            if len(document) > self._max_input_bytes:
                return output.refusal(output.TOO_LARGE, self.sha256)
            asked = msgspec.json.decode(document)
            answer = await self._client.query_rule(asked, ".".join(PACKAGE), "decision", _STRICT)
            if "result" not in answer:
                return output.refusal(output.UNDEFINED, self.sha256)
            return output.read(answer["result"], self.sha256)
        except aiohttp.ClientResponseError:
            return output.refusal(output.ERROR, self.sha256)
        except _FAILURES:
            return output.refusal(output.UNREACHABLE, self.sha256)
