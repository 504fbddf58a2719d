"""Which accelerators exist, which this host has, and what they are."""
