"""DiDeMo: Flickr videos of half a minute, a paragraph of descriptions each."""
