"""Devices over SSH, from the build machine's side; targets.device is what runs over there."""
