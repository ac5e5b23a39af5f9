"""What an asset is handed. Each resource is configuration that gives a plain object of `pipeline/`."""
