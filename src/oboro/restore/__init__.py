"""What other runs learned: checkpoints, parts of them, and training that starts from them."""
