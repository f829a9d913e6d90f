"""Measuring mcpgw against others on one small machine."""
