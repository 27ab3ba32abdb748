"""The `amtl-export` command: one thin click command per file."""
