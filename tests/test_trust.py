"""What mutants taught: each test here kills a small wrong edit that all other tests let live."""

import numpy as np
import pytest

from .test_pairs import PAIRS, draw


@pytest.mark.parametrize("pair", [name for name in PAIRS if "mask" not in name])
def test_a_pair_keeps_float32(pair):
    shapes, forward, backward = PAIRS[pair]
    rng = np.random.default_rng(80)
    params = {name: x.astype(np.float32) for name, x in draw(rng, shapes).items()}
    out, cache = forward(params)
    dout = rng.standard_normal(np.shape(out)).astype(np.float32)
    assert {x.dtype for x in (out, *backward(dout, cache))} == {np.dtype(np.float32)}
