"""Which stage feeds which: one module for each part of a build."""
