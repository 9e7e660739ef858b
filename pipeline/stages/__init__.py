"""The stages of a build: each takes artefacts and settings from its context and leaves artefacts in it.

They only translate between files and the functions that do the work.
"""
