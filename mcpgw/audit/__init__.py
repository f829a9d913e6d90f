"""The journal, the log and its proofs."""
