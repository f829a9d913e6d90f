"""mcpgw: the gateway between a company's AI agents and everything they can touch."""

__version__ = "0.1.0"
