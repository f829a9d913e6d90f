"""Tests of mcpgw.upstream.llm."""
