"""Scenes that tasks share, built with MjSpec from primitives."""
