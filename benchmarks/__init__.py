"""Scripts that print a table with peers beside us."""
