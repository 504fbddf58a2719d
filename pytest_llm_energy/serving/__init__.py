"""A scenario on an engine: what is served, and the worker processes that serve it."""
