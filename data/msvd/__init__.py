"""MSVD: 1,970 clips with about 41 captions each."""
