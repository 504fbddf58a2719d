"""One file per finding of Fernandez et al. 2025 (arXiv 2504.17674)."""
