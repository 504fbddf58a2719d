"""The plugin as users see it."""
