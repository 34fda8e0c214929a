"""Demonstrations from elsewhere as corpora of our format: mapping, sources, conversion, writing."""
