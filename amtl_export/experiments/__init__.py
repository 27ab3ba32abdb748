"""The paper's comparisons as resumable sweeps: many trainings, one table."""
