"""LLM providers, one file a dialect."""
