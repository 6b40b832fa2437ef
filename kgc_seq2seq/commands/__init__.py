"""Commands of ``kgc``, one topic a file."""
