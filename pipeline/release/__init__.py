"""Releases: one signed bundle for each device, made from what a build handed over."""
