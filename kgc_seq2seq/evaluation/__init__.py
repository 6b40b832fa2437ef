"""How good is it? Ranks, metrics, the protocol they were made under, and a report."""
