"""Episodes written as datasets that other people's programs read."""
