"""Inputs as traffic has them: ids drawn as often as training saw them, or replayed from data."""
