"""Record synthesis by reinforcement learning: a policy over whole rows, rewarded by a discriminator."""
