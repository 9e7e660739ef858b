"""Many builds from one build file: a grid of settings, or a search among them."""
