"""One file per data set; `common` holds every default."""
