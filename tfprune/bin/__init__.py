"""The binaries: each turns flags into a config and makes one call."""
