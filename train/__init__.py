"""Learning: the policy-and-value network, its loss, engine and checkpoints."""
