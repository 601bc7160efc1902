"""The experiments: shapes, lesions, counted compute, restart after a kill, bad input."""

import experiments  # noqa: F401, I001 (first: it asks for one BLAS thread)

import numpy as np
import pytest

from experiments import shapes


# ---------------------------------------------------------------- shapes


def bell(rows, columns, width):
    return np.exp(-((shapes.off_diagonal(rows, columns) / width) ** 2) / 2)


def pure(name, rng):
    """A random map (rows, columns) of a shape, made without the scores' own templates."""
    rows, columns = rng.integers(8, 25, size=2)
    if "diagonal" in name:
        i = np.arange(rows)
        j = np.floor((i + 0.5) * columns / rows).astype(int)
        block = np.zeros((rows, columns))
        for shift in range(-6, 7) if name == "blurred diagonal" else [0]:
            weight = rng.uniform(0.8, 1.2, rows) * np.exp(-((shift / rng.uniform(1.2, 2)) ** 2) / 2)
            ok = (j + shift >= 0) & (j + shift < columns)
            block[i[ok], (j + shift)[ok]] += weight[ok]
        return block[:, ::-1] if name == "anti-diagonal" else block
    chosen = rng.choice(columns, rng.integers(1, 4), replace=False)
    block = np.zeros((rows, columns))
    block[:, chosen] = rng.uniform(0.5, 1.5, (rows, len(chosen)))
    return block if name == "vertical stripe" else block.T


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_shapes_are_found_in_noise_of_the_same_weight(name):
    rng = np.random.default_rng(0)
    blocks = [pure(name, rng) for _ in range(200)]
    noise = [rng.random(block.shape) for block in blocks]
    mixed = [b / b.sum() + x / x.sum() for b, x in zip(blocks, noise, strict=True)]
    assert np.mean([shapes.name(block) == name for block in mixed]) >= 0.95


def softmax(x):
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


RANDOM = {
    "constant": lambda rng, size: np.full(size, 1 / size[1]),
    "uniform": lambda rng, size: rng.random(size),
    "dirichlet 1": lambda rng, size: rng.dirichlet(np.ones(size[1]), size[0]),
    "dirichlet 0.1": lambda rng, size: rng.dirichlet(np.full(size[1], 0.1), size[0]),
    "softmax 1": lambda rng, size: softmax(rng.standard_normal(size)),
    "softmax 3": lambda rng, size: softmax(3 * rng.standard_normal(size)),
    "gamma": lambda rng, size: rng.gamma(0.3, size=size),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_random_maps_have_no_shape(kind):
    rng = np.random.default_rng(0)
    blocks = [RANDOM[kind](rng, rng.integers(4, 25, size=2)) for _ in range(1000)]
    assert np.mean([shapes.name(block) != "none" for block in blocks]) <= 0.05
