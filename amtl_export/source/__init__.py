"""What is exported: a trained model, how it is called, and what is known of its data."""
