"""What the parts of ``llm-energy`` do that are more than a call."""
