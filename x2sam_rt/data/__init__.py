"""Labelled examples: what training learns from and evaluation measures with."""
