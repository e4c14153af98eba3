"""The stages once more, laid out as a CPU runs them fastest; the same numbers as their plain twins."""
