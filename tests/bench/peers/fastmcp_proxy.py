"""FastMCP's proxy as a target of compare.py, run by the Python of its own environment: fastmcp_proxy.py PORT [N].

In front of the fixture, or of its servers s0..s{N-1}. A fresh upstream session for each request: its default.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
import uvloop
from fastmcp.server import create_proxy

UPSTREAM = "http://127.0.0.1:9000"


async def main(port: int, servers: int) -> None:
    target: Any = f"{UPSTREAM}/mcp"
    if servers:
        urls = {f"up{i}": {"url": f"{UPSTREAM}/s{i}/mcp", "transport": "http"} for i in range(servers)}
        target = {"mcpServers": urls}
    app = create_proxy(target, name="bench").http_app(path="/mcp", json_response=True)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, http="httptools", access_log=False, log_level="error")
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
