"""What the tests share: random models and inputs, some listed, some drawn by hypothesis."""

import itertools
from collections import namedtuple
from dataclasses import replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import memt
from memt import Config

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

# No two sizes are equal (equal sizes hide a transpose): B 2, H 3, D 4, M 5, S 6, S+1 7, R 8, T 9,
# F 10, C 12, M+T 14.
B, T = 2, 9
SIZES = {"symbols": 6, "width": 12, "heads": 3, "hidden": 10}
AT = {"all": None, "slice": slice(1, None), "some": np.array([7, 0, 4])}

# the arguments of memt.loss_and_grads, and of the reference implementation, in their order
Case = namedtuple("Case", "params tokens targets config at mask")


def two_roles(variant):
    return len(memt.WIRINGS[variant].roles) == 2


def configs(layers=(1, 2, 3)):
    """Every variant with every option that it has."""
    found = []
    options = itertools.product(memt.VARIANTS, layers, (False, True), (None, 0, 2))
    for variant, n, share, window in options:
        if share and not two_roles(variant):
            continue
        if window is not None and variant in memt.BOTTLENECKS:
            continue
        sizes = {**SIZES, "layers": n, "memory": 0 if variant == "transformer" else 5}
        found.append(Config(**sizes, variant=variant, share_controller=share, window=window))
    return found + [replace(c, positions=False) for c in found if name(c) == f"{c.variant}-2"]


def name(config):
    share = "-shared" if config.share_controller else ""
    window = "" if config.window is None else f"-window{config.window}"
    bag = "" if config.positions else "-bag"
    return f"{config.variant}-{config.layers}{share}{window}{bag}"


def random_params(config, rng, dtype=np.float64):
    """Biases away from 0 and gains away from 1, so that no term of a gradient hides."""
    params = memt.init_params(config, rng, dtype)
    vector = memt.flat(params)
    vector += 0.3 * rng.standard_normal(vector.shape)
    return params


def random_case(config, rng, at=None, mask=None, batch=B, length=T):
    """Random parameters; tokens with blanks and repeated symbols; a target for each logit row."""
    params, tokens = (
        random_params(config, rng),
        rng.integers(config.symbols + 1, size=(batch, length)),
    )
    rows = np.arange(length)[slice(None) if at is None else at]
    targets = rng.integers(config.outputs or config.symbols, size=(batch, len(rows)))
    return Case(params, tokens, targets, config, at, mask)


def random_mask(config, rng, batch=B, length=T):
    """(batch, M+length, M+length) booleans that the variant accepts."""
    M, N = config.memory, config.memory + length
    mask = rng.random((batch, N, N)) < 0.7
    mask |= np.arange(N) == (0 if M else np.arange(N)[:, None])  # something is left for each row
    if config.variant in memt.BOTTLENECKS:  # sequence rows see, through memory, what memory sees
        mask[:, M:, M:] |= mask[:, :M, M:].any(axis=1, keepdims=True)
    return mask


def loss_of(case):
    """params -> loss, by memt's forward functions."""
    _, tokens, targets, *how = case

    def f(params):
        logits, _ = memt.model_forward(params, tokens, *how)
        return memt.cross_entropy_forward(logits, targets)[0]

    return f


@st.composite
def cases(draw, variant):
    """Any model of the variant, with any positions and any mask."""
    few, heads = st.integers(1, 4), draw(st.integers(1, 3))
    window = None if variant in memt.BOTTLENECKS else draw(st.none() | st.integers(0, 3))
    small, outputs = st.integers(1, 9), draw(st.none() | st.integers(1, 7))
    sizes = {"symbols": draw(small), "hidden": draw(small), "layers": draw(st.integers(1, 3))}
    sizes |= {"heads": heads, "width": heads * draw(st.sampled_from((4, 6))), "outputs": outputs}
    share = two_roles(variant) and draw(st.booleans())
    memory = 0 if variant == "transformer" else draw(few)
    options = {"share_controller": share, "window": window, "positions": draw(st.booleans())}
    config = Config(**sizes, memory=memory, variant=variant, **options)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    batch, length = draw(few), draw(st.integers(1, 8))
    some = rng.permutation(length)[: draw(st.integers(1, length))]
    slices = st.slices(length).filter(lambda x: range(length)[x])
    at = draw(slices | st.sampled_from((None, some, some.astype(np.uint8))))
    mask = random_mask(config, rng, batch, length)
    mask = draw(st.sampled_from((None, mask, mask[0], mask[:, :1] if config.memory else mask)))
    return random_case(config, rng, at, mask, batch, length)
