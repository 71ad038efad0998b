"""Workshop: data, the training loop, and the recipes."""
