"""What the paper says, measured: each module is one command, one CSV and one picture."""

import train_toy  # noqa: F401 (it asks for one BLAS thread: that must come before any NumPy)
