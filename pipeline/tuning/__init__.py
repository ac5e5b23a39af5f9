"""Choosing a generator's settings: what may be searched, what is minimised, and the study that remembers every trial."""
