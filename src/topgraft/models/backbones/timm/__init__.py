"""Networks of timm as chains of groups."""
