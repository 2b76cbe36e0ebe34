"""An index of videos: their features in LanceDB, kept up to date and searched in two stages."""
