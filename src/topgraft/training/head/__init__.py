"""Solve the head on features: logistic regression, support vector machines, linear probes."""
