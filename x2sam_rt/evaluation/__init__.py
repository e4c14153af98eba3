"""Accuracy: metrics, and measuring them through every engine."""
