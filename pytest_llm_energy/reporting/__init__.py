"""Pure functions from verdicts to text, and the live line."""
