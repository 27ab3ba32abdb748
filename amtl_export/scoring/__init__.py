"""Scoring files of raw rows with a bundle."""
