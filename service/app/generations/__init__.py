"""Which model serves which generation of a collection, and what follows when the configuration changes."""
