"""Anybody's own clips, listed in a JSON-lines or CSV file."""
