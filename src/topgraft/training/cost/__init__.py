"""What training costs: seconds for each group, time budgets, whether to cache activations."""
