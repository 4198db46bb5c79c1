"""Every choice of a user: declared, parsed, checked."""
