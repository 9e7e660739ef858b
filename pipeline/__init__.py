"""What happens to a network, stage by stage, from trained weights to verified engines and a report."""
