"""From a trained model to constants: dims of every id, rows zero past them, no selection network."""
