"""The explorer: a page on loopback that asks a run, and shows why it answers as it does."""
