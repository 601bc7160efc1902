"""Importing train_toy first gives every test one thread."""

import train_toy  # noqa: F401
