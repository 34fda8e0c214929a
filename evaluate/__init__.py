"""Evaluation: lockstep runs on unseen seeds, statistics and the report."""
