"""Many requests as geometry: traces, bins, tasks, FLOPs, energy estimates."""
