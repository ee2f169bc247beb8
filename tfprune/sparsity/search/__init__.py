"""A search over how much of each layer is pruned, at a constant budget."""
