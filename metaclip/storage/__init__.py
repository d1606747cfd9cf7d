"""Storage: local and remote paths, whole-file writes, leases and resumable downloads."""
