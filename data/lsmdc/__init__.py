"""LSMDC: clips of movies, one audio description each."""
