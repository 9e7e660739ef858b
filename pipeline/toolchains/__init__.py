"""Toolchains that are no part of edgewright: what is installed of them, pinned, and how."""
