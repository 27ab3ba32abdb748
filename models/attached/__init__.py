"""AMTL behind tables of a model that somebody else wrote; `models.attach` is the way in."""
