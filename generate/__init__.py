"""Simulation: tasks on MuJoCo, rollouts in waves, and the `generate` command."""
