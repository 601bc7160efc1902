"""What the tests share: the configurations that are tried, and random models for them."""

import itertools

import numpy as np

import memt
from memt import Config

# No two sizes are equal (equal sizes hide a transpose): B 2, H 3, D 4, M 5, S 6, S+1 7, R 8, T 9,
# F 10, C 12, M+T 14.
B, T = 2, 9
SIZES = {"symbols": 6, "width": 12, "heads": 3, "hidden": 10}
READS = {"all": None, "slice": slice(1, None), "some": np.array([7, 0, 4])}


def configs(layers=(1, 2, 3)):
    """Every variant with every option that it has."""
    found = []
    options = itertools.product(memt.VARIANTS, layers, (False, True), (None, 0, 2))
    for variant, n, share, window in options:
        if share and variant not in ("memctrl", "membottleneck"):
            continue
        if window is not None and variant in ("masked", "membottleneck"):
            continue
        sizes = {**SIZES, "layers": n, "memory": 0 if variant == "transformer" else 5}
        found.append(Config(**sizes, variant=variant, share_controller=share, window=window))
    return found


def name(config: Config) -> str:
    share = "-shared" if config.share_controller else ""
    window = "" if config.window is None else f"-window{config.window}"
    return f"{config.variant}-{config.layers}{share}{window}"


def random_params(config: Config, rng, dtype=np.float64):
    """Biases away from 0 and gains away from 1, so that no term of a gradient hides."""
    params = memt.init_params(config, rng, dtype)
    vector = memt.flat(params)
    vector += 0.3 * rng.standard_normal(vector.shape)
    return params


def random_batch(config: Config, rng, read=None, batch=B, length=T):
    """Tokens with blanks among them and repeated symbols; targets where the model is read."""
    tokens = rng.integers(config.symbols + 1, size=(batch, length))
    R = np.arange(length)[slice(None) if read is None else read].size
    return tokens, rng.integers(config.symbols, size=(batch, R))


def loss_function(tokens, targets, config, read=None):
    """params -> loss, by memt's forward functions."""

    def f(params):
        logits, _ = memt.model_forward(params, tokens, config, read)
        return memt.cross_entropy_forward(logits, targets)[0]

    return f


def loss_and_grads(params, tokens, targets, config, read=None):
    """Loss and gradients by memt's hand-written backward."""
    logits, cache = memt.model_forward(params, tokens, config, read)
    loss, loss_cache = memt.cross_entropy_forward(logits, targets)
    return loss, memt.model_backward(memt.cross_entropy_backward(1.0, loss_cache), cache)
