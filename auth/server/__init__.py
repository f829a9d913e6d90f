"""Our own authorization server."""
