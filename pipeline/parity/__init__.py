"""The gates: a model or engine must do what the one before it did, on the same real inputs."""
