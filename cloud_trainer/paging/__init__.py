"""Calls for a person: kept, delivered to the receivers that a file names, repeated until somebody answers."""
