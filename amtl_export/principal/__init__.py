"""Principal order: rows of a table rewritten so that their leading numbers matter most, then cut id by id."""
