"""Identity: who is calling."""
