"""Wire formats to and from actions."""
