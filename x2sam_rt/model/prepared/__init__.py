"""The stages as the PyTorch backend runs them on a CPU."""
