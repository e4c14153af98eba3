"""Frames and masks as files and arrays. Knows nothing of models."""
