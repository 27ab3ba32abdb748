"""Principal order: the basis in which the leading numbers of a row matter most, and where rows are cut in it."""
