"""The log: what is written, what survives, what is proven."""
