"""A server process that speaks line by line and misbehaves on request: `python line_server.py ERA [QUIRK]`.

Standard library alone, so that it starts in milliseconds. Tools are the functions named `tool_…`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from typing import Any

ERA = sys.argv[1]
QUIRK = sys.argv[2] if len(sys.argv) > 2 else ""
LISTS = os.environ.get("LISTS", "")
REQUESTS: list[dict[str, Any]] = []
LISTENERS: dict[int, dict[str, Any]] = {}
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
TIMES = {"createdAt": "2026-11-21T10:00:00Z", "lastUpdatedAt": "2026-11-21T10:00:00Z", "ttlMs": 60000}
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
    """Never answers; makes the file `begun`, if told to."""
    begun = (params.get("arguments") or {}).get("begun")
    if begun:
        open(begun, "x").close()


def tool_line(params: dict[str, Any]) -> Any:
    """A line without end."""
    for _ in range(300):
        sys.stdout.write("x" * 10_000)
    sys.stdout.flush()
    time.sleep(60)


def tool_gigabyte(params: dict[str, Any]) -> Any:
    """A line of 1 GB, if somebody reads it."""
    for _ in range(1000):
        sys.stdout.write("x" * 1_000_000)
        sys.stdout.flush()


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


def tool_twice(params: dict[str, Any]) -> Any:
    """Asks the client two things, one after the other, with progress between them."""
    answers = [answer_to("t1"), progressed(params), answer_to("t2")]
    return text([answer for answer in answers if answer is not None])


def answer_to(question: str) -> Any:
    meta = {"progressToken": "ours", "com.example/x": 1}
    asked = {"message": question, "requestedSchema": {}, "_meta": meta}
    say({"id": question, "method": "elicitation/create", "params": asked})
    while (message := read()).get("id") != question:
        pass
    return message.get("result", message.get("error"))


def progressed(params: dict[str, Any]) -> None:
    token = params.get("_meta", {}).get("progressToken")
    if token is not None:
        say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})


def tool_url(params: dict[str, Any]) -> Any:
    """Asks for a URL, which not every client can be asked for."""
    say(
        {
            "id": "u1",
            "method": "elicitation/create",
            "params": {"mode": "url", "url": "https://x", "elicitationId": "e"},
        }
    )
    while (message := read()).get("id") != "u1":
        pass
    return text(message.get("result", message.get("error")))


def tool_visit(params: dict[str, Any]) -> Any:
    visits = [{"mode": "url", "elicitationId": "e-1", "url": "https://example.com/consent", "message": "please"}]
    return {"code": -32042, "message": "visit first", "data": {"elicitations": visits}}


def tool_withdraw(params: dict[str, Any]) -> Any:
    """Asks the client, and wants the answer no longer."""
    say({"id": "w1", "method": "elicitation/create", "params": {}})
    say({"method": "notifications/cancelled", "params": {"requestId": "w1"}})
    return text("done")


def tool_retract(params: dict[str, Any]) -> Any:
    """Asks the client, answers the next call, and wants the first answer no longer."""
    say({"id": "w2", "method": "elicitation/create", "params": {}})
    say({"id": read()["id"], "result": text("meanwhile")})
    say({"method": "notifications/cancelled", "params": {"requestId": "w2"}})
    return text("done")


def tool_both(params: dict[str, Any]) -> Any:
    """Asks the client two things at once."""
    answers: dict[str, Any] = {}
    for question in ("b1", "b2"):
        say({"id": question, "method": "elicitation/create", "params": {"message": question}})
    while len(answers) < 2:
        message = read()
        if "method" not in message:
            answers[message["id"]] = message.get("result", message.get("error"))
    return text(answers)


def tool_leave(params: dict[str, Any]) -> None:
    """Asks the client and leaves its own call without an answer."""
    say({"id": "q1", "method": "elicitation/create", "params": {}})


def tool_log(params: dict[str, Any]) -> Any:
    for level in ("debug", "warning"):
        say({"method": "notifications/message", "params": {"level": level, "data": "from the server"}})
    say({"method": "notifications/prompts/list_changed"})
    return text("done")


def tool_about(params: dict[str, Any]) -> Any:
    return text(
        {
            "environment": dict(os.environ),
            "arguments": sys.argv[1:],
            "directory": os.getcwd(),
            "pid": os.getpid(),
            "group": os.getpgid(0),
            "session": os.getsid(0),
            "limits": {
                name: resource.getrlimit(getattr(resource, name))
                for name in ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_NPROC", "RLIMIT_FSIZE")
            },
            "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],  # the last one is the directory
        }
    )


def tool_fork(params: dict[str, Any]) -> Any:
    """Forks as often as it can, which is 100 times at most, as a user that nobody else is when it may choose."""
    if os.getuid() == 0:
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54321, 54321, 54321)
    started = 0
    try:
        while started < 100:
            if os.fork() == 0:
                time.sleep(300)
            started += 1
    except BlockingIOError:
        return text({"started": started, "refused": True})
    return text({"started": started, "refused": False})


def tool_write(params: dict[str, Any]) -> Any:
    """Writes a file of a megabyte."""
    with open(params["arguments"]["path"], "wb") as file:
        file.write(b"x" * 1_000_000)
    return text("written")


def tool_hoard(params: dict[str, Any]) -> Any:
    """Takes 8 GB of memory, which it never touches."""
    try:
        return text(len(bytearray(8_000_000_000)))
    except MemoryError:
        return text("no memory")


def tool_spin(params: dict[str, Any]) -> Any:
    while True:
        pass


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


def tool_endless(params: dict[str, Any]) -> Any:
    """Complains for ever."""
    while True:
        sys.stderr.write("again and again\n" * 1000)


def tool_input(params: dict[str, Any]) -> Any:
    answers = params.get("inputResponses")
    if answers is not None:
        return text({"answers": answers, "state": params["requestState"]})
    wanted = {"name": {"method": "elicitation/create", "params": {"message": "who?"}}}
    return {"resultType": "input_required", "inputRequests": wanted, "requestState": "state-1"}


def tool_log_level(params: dict[str, Any]) -> Any:
    """Logs as a process of 2026-07-28 does: what the request wants, which the message does not name."""
    levels = ("debug", "info", "warning")
    least = params["_meta"].get("io.modelcontextprotocol/logLevel")
    for level in levels[levels.index(least) :] if least in levels else ():
        say({"method": "notifications/message", "params": {"level": level, "data": "from the server"}})
    return text(least)


def tool_change(params: dict[str, Any]) -> Any:
    """Tells all who listen that the prompts have changed, and what they watch."""
    for listener, wanted in LISTENERS.items():
        meta = {"_meta": {SUBSCRIPTION: listener}}
        if wanted.get("promptsListChanged"):
            say({"method": "notifications/prompts/list_changed", "params": meta})
        for uri in wanted.get("resourceSubscriptions", []):
            say({"method": "notifications/resources/updated", "params": {"uri": uri, **meta}})
    return text(len(LISTENERS))


def tool_task(params: dict[str, Any]) -> Any:
    """Makes a task."""
    return {"resultType": "task", "taskId": "own-1", "status": "working", **TIMES}


def listen(request: dict[str, Any]) -> None:
    LISTENERS[request["id"]] = wanted = request["params"]["notifications"]
    params = {"notifications": wanted, "_meta": {SUBSCRIPTION: request["id"]}}
    say({"method": "notifications/subscriptions/acknowledged", "params": params})


def tell_of_task(request: dict[str, Any]) -> None:
    """Answers `tasks/get`, and tells all who listen for the task."""
    task = {"taskId": request["params"]["taskId"], "status": "completed", **TIMES}
    for listener, wanted in LISTENERS.items():
        if task["taskId"] in wanted.get("taskIds", []):
            say({"method": "notifications/tasks", "params": {**task, "_meta": {SUBSCRIPTION: listener}}})
    say({"id": request["id"], "result": {"resultType": "complete", **task}})


def missing(request: dict[str, Any], code: int = -32601) -> None:
    say({"id": request["id"], "error": {"code": code, "message": "not here"}})


def discover(request: dict[str, Any]) -> None:
    if QUIRK == "dies-at-probe":
        sys.exit(1)
    if QUIRK == "silent-at-probe":
        return
    settled = QUIRK == "settles" and any(r.get("method") == "initialize" for r in REQUESTS)
    if ERA not in {"modern", "dual"} or settled:
        missing(request)
        return
    result = {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {**CAPABILITIES, "extensions": {"io.modelcontextprotocol/tasks": {}}},
        "instructions": "be kind",
        "ttlMs": 0,
        "cacheScope": "public",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "lines", "version": "1"}},
    }
    say({"id": request["id"], "result": result})


def initialize(request: dict[str, Any]) -> None:
    if ERA not in {"legacy", "dual"}:
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
        listed = [name[5:] for name in globals() if name.startswith("tool_")] if LISTS == "all" else ["echo"]
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in listed], **modern}
    if method == "resources/read":
        return {"contents": [], **modern} if params["uri"] == "test://x" else None
    if method == "resources/subscribe":
        say({"method": "notifications/resources/updated", "params": {"uri": params["uri"]}})
    return {}


def main() -> None:
    if QUIRK == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if QUIRK == "crashes":
        sys.exit("cannot start")
    while True:
        request = read()
        if request.get("method") == "notifications/cancelled":
            LISTENERS.pop(request["params"]["requestId"], None)
        if "id" not in request or "method" not in request:
            continue
        if request["method"] == "server/discover":
            discover(request)
        elif request["method"] == "initialize":
            initialize(request)
        elif ERA == "modern" and request["method"] == "subscriptions/listen":
            listen(request)
        elif ERA == "modern" and request["method"] == "tasks/get":
            tell_of_task(request)
        elif request["method"] == "resources/read" and result_of(request) is None:
            missing(request, -32002)
        elif (result := result_of(request)) is not None:
            say({"id": request["id"], "error" if "code" in result else "result": result})


if __name__ == "__main__":
    main()
