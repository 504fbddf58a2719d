"""Engines: what a worker drives. Imported inside workers only, where msgspec and pytest may be missing."""
