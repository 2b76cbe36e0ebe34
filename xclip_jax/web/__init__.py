"""A server over an index: a JSON API and one page, for one machine by default."""
