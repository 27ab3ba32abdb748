"""PyTorch models: embedding methods, backbones, and the click-through model that joins them."""
