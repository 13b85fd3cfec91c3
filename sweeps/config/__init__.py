"""What one sweep is, and how it comes from YAML files and typed words; only `compose` imports Hydra."""
