"""x2sam-toy: a few million parameters, trained on the made-up world from nothing; and what only that needs."""
