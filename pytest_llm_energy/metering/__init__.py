"""Joules of a window: the meter protocol and the meters that speak it."""
