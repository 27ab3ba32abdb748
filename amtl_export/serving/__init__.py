"""Into inference servers: what they load, made from a bundle."""
