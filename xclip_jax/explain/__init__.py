"""Why a model gives a text and a video their score: as numbers, as a picture, as a page."""
