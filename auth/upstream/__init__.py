"""Credentials towards upstream servers."""
