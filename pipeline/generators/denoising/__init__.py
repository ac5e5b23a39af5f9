"""What generators that denoise share: rows as vectors, networks, noise and samplers."""
