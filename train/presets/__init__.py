"""Model sizes with their own learning rates, as TOML files to copy."""
