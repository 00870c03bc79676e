"""A run folder as data."""
