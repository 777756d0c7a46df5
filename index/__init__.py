"""Collection schemas, as TOML."""
