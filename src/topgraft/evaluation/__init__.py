"""Logits, metrics with their uncertainty, predictions, forgetting."""
