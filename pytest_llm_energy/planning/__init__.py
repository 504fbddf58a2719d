"""Which of the collected cases run, in what order and on which shard, by what they are expected to take."""
