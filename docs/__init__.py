"""Scripts that write the figures in the documents."""
