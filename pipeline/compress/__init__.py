"""From a teacher to a smaller network: cost, structure, distillation."""
