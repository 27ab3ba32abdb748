"""Proof that a bundle answers as the run it came from: rows, ids, scores, provenance, checksums."""
