"""One thread for every test: train_toy asks for that, if it comes before NumPy."""

import train_toy  # noqa: F401
