"""Pure statements about what was measured: statistics, claims, baselines, the journal and the judge."""
