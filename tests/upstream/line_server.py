"""A server process that speaks line by line and misbehaves on request: `python line_server.py ERA [QUIRK]`.

Standard library alone, so that it starts in milliseconds. Tools are the functions named `tool_…`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

ERA = sys.argv[1]
QUIRK = sys.argv[2] if len(sys.argv) > 2 else ""
REQUESTS: list[dict[str, Any]] = []
CAPABILITIES = {"tools": {"listChanged": True}, "logging": {}, "resources": {"subscribe": True}}


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def text(value: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": json.dumps(value)}]}


def read() -> dict[str, Any]:
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    message: dict[str, Any] = json.loads(line)
    REQUESTS.append(message)
    return message


def tool_echo(params: dict[str, Any]) -> Any:
    return text(params.get("arguments"))


def tool_requests(params: dict[str, Any]) -> Any:
    return text(REQUESTS)


def tool_fail(params: dict[str, Any]) -> Any:
    return {**text("no"), "isError": True}


def tool_die(params: dict[str, Any]) -> Any:
    os._exit(3)


def tool_hang(params: dict[str, Any]) -> None:
    return None


def tool_line(params: dict[str, Any]) -> Any:
    """A line without end."""
    for _ in range(300):
        sys.stdout.write("x" * 10_000)
    sys.stdout.flush()
    time.sleep(60)


def tool_stray(params: dict[str, Any]) -> Any:
    """Says a number of things that belong to no call."""
    sys.stdout.write("a banner\n\n{\n")
    say({"id": 10**6, "result": text("somebody else's")})
    say({"id": "x", "result": {}})
    say({"method": "notifications/message", "params": {"level": "info", "data": "private"}})
    say({"method": "notifications/resources/updated", "params": {"uri": "x"}})
    say({"method": "notifications/progress", "params": {"progressToken": 10**6, "progress": 1}})
    say({"method": "notifications/progress", "params": {"progressToken": "tok", "progress": 1}})
    say({"method": "notifications/tools/list_changed"})
    return text("done")


def tool_progress(params: dict[str, Any]) -> Any:
    token = params["_meta"]["progressToken"]
    for step in (1, 2):
        say({"method": "notifications/progress", "params": {"progressToken": token, "progress": step, "vendor": 1}})
    return text(type(token).__name__)


def tool_ask(params: dict[str, Any]) -> Any:
    """Asks the client; what it reads until both answers are there is dropped."""
    say({"id": "q1", "method": "elicitation/create", "params": {}})
    say({"id": "q2", "method": "ping"})
    answers: dict[str, Any] = {}
    while len(answers) < 2:
        message = read()
        if "method" not in message:
            answers[message["id"]] = message.get("result", message.get("error"))
    return text(answers)


def tool_about(params: dict[str, Any]) -> Any:
    return text(
        {
            "environment": dict(os.environ),
            "arguments": sys.argv[1:],
            "directory": os.getcwd(),
            "pid": os.getpid(),
            "group": os.getpgid(0),
            "session": os.getsid(0),
        }
    )


def tool_child(params: dict[str, Any]) -> Any:
    """Leaves a child behind that holds our output open and does not mind SIGTERM."""
    child = subprocess.Popen(
        [sys.executable, "-ISc", "import signal,time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(300)"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return text({"pid": child.pid})


def tool_complain(params: dict[str, Any]) -> Any:
    sys.stderr.write("\x1b[31mred\x1b[0m\u2028\u202eright\rto left\nsecond\n" + "y" * 20_000 + "\nlast\n")
    sys.stderr.flush()
    return text("done")


def tool_flood(params: dict[str, Any]) -> Any:
    """More than the pipe holds, so that it has to be read in several pieces."""
    for number in range(300):
        sys.stderr.write(f"{number} " + "z" * 500 + "\n")
    sys.stderr.flush()
    return text("done")


def tool_input(params: dict[str, Any]) -> Any:
    return {"resultType": "input_required", "inputRequests": {}}


def missing(request: dict[str, Any], code: int = -32601) -> None:
    say({"id": request["id"], "error": {"code": code, "message": "not here"}})


def discover(request: dict[str, Any]) -> None:
    if QUIRK == "dies-at-probe":
        sys.exit(1)
    if QUIRK == "silent-at-probe":
        return
    if ERA != "modern":
        missing(request)
        return
    result = {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": CAPABILITIES,
        "instructions": "be kind",
        "ttlMs": 0,
        "cacheScope": "public",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "lines", "version": "1"}},
    }
    say({"id": request["id"], "result": result})


def initialize(request: dict[str, Any]) -> None:
    if ERA != "legacy":
        missing(request)
        return
    result = {
        "protocolVersion": "2025-06-18",
        "capabilities": CAPABILITIES,
        "serverInfo": {"name": "lines", "version": "1"},
        "instructions": "be kind",
    }
    say({"id": request["id"], "result": result})


def result_of(request: dict[str, Any]) -> Any:
    modern = {"resultType": "complete", "ttlMs": 5, "cacheScope": "public"} if ERA == "modern" else {}
    method, params = request["method"], request.get("params", {})
    if method == "tools/call":
        tool = globals().get(f"tool_{params['name']}", tool_hang)
        result = tool(params)
        return result and {**({"resultType": "complete"} if modern else {}), **result}
    if method == "tools/list":
        return {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}], **modern}
    if method == "resources/read":
        return {"contents": [], **modern} if params["uri"] == "test://x" else None
    return {}


def main() -> None:
    if QUIRK == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if QUIRK == "crashes":
        sys.exit("cannot start")
    while True:
        request = read()
        if "id" not in request or "method" not in request:
            continue
        if request["method"] == "server/discover":
            discover(request)
        elif request["method"] == "initialize":
            initialize(request)
        elif request["method"] == "resources/read" and result_of(request) is None:
            missing(request, -32002)
        elif (result := result_of(request)) is not None:
            say({"id": request["id"], "result": result})


if __name__ == "__main__":
    main()
