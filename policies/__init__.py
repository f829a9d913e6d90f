"""Policies: what may happen."""
