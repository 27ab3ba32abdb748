"""Inputs of a run's model: ids drawn as often as training saw them, or taken from encoded rows."""
