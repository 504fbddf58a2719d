"""Real engines on this host's CPU."""
