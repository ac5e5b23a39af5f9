"""Parts of ScoEHR: settings, the spaces that diffusion works in, the likelihood of rows, the noise model."""
