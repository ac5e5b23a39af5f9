"""Where artefacts lie: versions and pointers, the append-only journal, model bundles."""
