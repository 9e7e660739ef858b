"""What the verbs of the command line do besides building, and how results are shown."""
