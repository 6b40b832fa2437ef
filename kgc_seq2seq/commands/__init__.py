"""The commands of ``kgc``, one file for each topic."""
