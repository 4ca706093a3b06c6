"""Environments that were not made for us: Gymnasium's, mapped by a file."""
