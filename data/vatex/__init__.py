"""VATEX: clips of ten seconds with ten English captions each."""
