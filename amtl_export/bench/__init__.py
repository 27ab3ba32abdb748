"""Timing, as ratios within one run: subjects interleaved, ids rotating through more memory than the caches hold."""
