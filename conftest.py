"""Configuration shared by the energy tests and the project's own tests."""

pytest_plugins = ["pytester"]
