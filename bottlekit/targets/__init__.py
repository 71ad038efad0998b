"""One TOML file per kind of machine, and its loader."""
