"""Captions the images of a data set once, and keeps what was said."""
