"""Bundles and runs that somebody spoilt, every command that opens them, and processes that are killed."""
