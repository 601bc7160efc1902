"""Solutions of the exercises that are not functions of memt.py.

The text below these imports is the end of the starter file; starter.py removes the answers.
"""

import numpy as np

from memt import rows_of

# ---------------------------------------------------------------- exercises outside the model


def tied_forward(x, w):
    """y = x + relu(x w) wᵀ: one matrix, used twice. x (..., C), w (C, F) -> (..., C)."""
    r = np.maximum(x @ w, 0)
    return x + r @ w.T, (x, w, r)


def tied_backward(dy, cache):
    """dy (..., C) -> dx (..., C), dw (C, F). Two lines are wrong: find and correct them."""
    x, w, r = cache
    dw = rows_of(dy).T @ rows_of(r)
    dr = dy @ w
    du = dr * (r > 0)
    dw += rows_of(x).T @ rows_of(du)
    dx = dy + du @ w.T
    return dx, dw


# One symbol of nine, at position 4, is replaced by another. At which of the positions 0 to 8 do
# the logits change? Lists of positions.
REACH = {
    "transformer, 1 layer, window 2": [2, 3, 4, 5, 6],
    "masked, 1 layer": [4],
    "masked, 2 layers": [0, 1, 2, 3, 4, 5, 6, 7, 8],
    "membottleneck, 1 layer": [0, 1, 2, 3, 4, 5, 6, 7, 8],
    "memtransformer, 1 layer, window 0": [4],
}

# Three memory rows start equal; two others differ from them and from each other. Of these five
# rows, how many different ones are there ...
EQUAL_ROWS = {
    "in the final memory of a memtransformer": 3,
    "in the final memory of a membottleneck": 3,
    "in the gradient of memory": 3,
    "in memory after one step of gradient descent": 3,
    "in the gradient of memory, after one of the three has been changed slightly": 4,
}

# Two layers; the loss is computed from the sequence. In which groups of parameters is every
# gradient exactly zero? The groups are layers.0.all and layers.1.all in memtransformer, else
# layers.0.mem, layers.0.seq and so on; a shared controller is the group "controller". embed,
# memory, out_w and out_b are in no group. Lists of names; [] if there is none.
ZERO_GRADIENTS = {
    "memtransformer": [],
    "memctrl": ["layers.1.mem"],
    "memctrl with a shared controller": [],
    "membottleneck": [],
}

# An attention map of a membottleneck after softmax. Rows are targets, columns are sources; the 3
# memory rows come first. Sequence rows attend to memory only. Read the answers by eye.
MAP = np.array([
    [0.10, 0.10, 0.10, 0.20, 0.15, 0.15, 0.20],
    [0.00, 0.05, 0.05, 0.05, 0.05, 0.80, 0.00],
    [0.50, 0.30, 0.00, 0.00, 0.15, 0.00, 0.05],
    [0.45, 0.55, 0.00, 0.00, 0.00, 0.00, 0.00],
    [0.70, 0.00, 0.30, 0.00, 0.00, 0.00, 0.00],
    [0.60, 0.10, 0.30, 0.00, 0.00, 0.00, 0.00],
    [0.50, 0.00, 0.50, 0.00, 0.00, 0.00, 0.00],
])  # fmt: skip

# Memory rows and sequence positions are counted from 0. Shares are sums of weights.
READING = {
    "memory row with the largest share of WRITE": 1,
    "memory row with the largest share of PROCESS": 2,
    "memory row that is a horizontal strip": 0,
    "memory row whose column is a vertical stripe in READ": 0,
    "sequence position from which position 0 receives most through memory (READ·WRITE)": 2,
}


def sort_task(x):
    """A task for train_toy.TASKS: symbols (B, n) -> the same, each row in ascending order.

    The symbols that it is given stay as they are.
    """
    return np.sort(x, axis=1)


def without(params, config, gone):
    """A lesion: the model without the memory tokens in the list `gone`; the rest stay in order.

    Returns new params and a new config; leaves the given ones unchanged. At least one token stays.
    """
    from dataclasses import replace

    kept = [m for m in range(config.memory) if m not in gone]
    smaller = replace(config, memory=len(kept))
    return {**params, "memory": params["memory"][kept]}, smaller
