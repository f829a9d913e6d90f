"""State in a database."""
