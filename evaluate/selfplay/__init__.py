"""Rounds of self-play: generate, audit, train and evaluate in turn."""
