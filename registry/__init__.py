"""The registry of MCP servers and their versions."""
