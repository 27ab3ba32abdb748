"""From a trained model to a smaller one without training: tables in principal order, cut, bases folded away."""
