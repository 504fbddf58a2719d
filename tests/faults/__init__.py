"""What breaks, and what is said then."""
