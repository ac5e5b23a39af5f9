"""Parts that the variational autoencoders share: network, schedules of beta, prior, portraits."""
