"""What a run needs on chips that are not here, read off the programs compiled for them."""
