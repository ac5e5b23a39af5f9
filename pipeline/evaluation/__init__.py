"""One evaluation for every generator: fidelity, utility, privacy, with intervals and reference rows."""
