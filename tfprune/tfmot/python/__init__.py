"""Where tfmot keeps its modules; its API names some of them in `tfprune.tfmot.sparsity`."""
