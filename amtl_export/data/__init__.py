"""Rows in, ids out: schemas, sources, vocabularies and encoded splits."""
