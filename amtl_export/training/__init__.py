"""From encoded rows to a run: the loop, its checkpoints, the metrics, the folder."""
