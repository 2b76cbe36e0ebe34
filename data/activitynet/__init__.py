"""ActivityNet Captions: long videos, each with a paragraph."""
