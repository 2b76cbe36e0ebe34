"""Offline: from video files and annotations to TFRecord frame shards."""
