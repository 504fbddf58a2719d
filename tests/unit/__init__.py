"""Pure rooms."""
