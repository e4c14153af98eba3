"""Training: the losses, stages and loop that make a checkpoint."""
