"""Everything that is reached on behalf of a caller."""
