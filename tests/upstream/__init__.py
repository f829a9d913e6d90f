"""Tests of mcpgw.upstream."""
