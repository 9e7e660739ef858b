"""The verbs as click sees them: arguments, help and what is printed; the work is in pipeline/verbs."""
