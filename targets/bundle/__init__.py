"""Bundles as they are received: checked against their signed list of files, unpacked, tried out."""
