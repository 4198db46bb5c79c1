"""Published networks, one module for each family."""
