"""Settings for one model: what tracing, targets and keys say of its layers, and a small search."""
