"""Readers, conversion into one action convention, mixing and sampling of training data."""
