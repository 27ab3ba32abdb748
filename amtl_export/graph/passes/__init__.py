"""The rewrites between a traced graph and one that serves, a pass a file; `graph/pipeline.py` puts them in order."""
