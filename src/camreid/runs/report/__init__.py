"""Runs as one HTML file: numbers, curves, camera pairs, ranked lists and where they come from."""
