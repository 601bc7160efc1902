"""Loss and all gradients of every variant against the reference implementation in PyTorch.

python -m tests.test_torch      # the largest error of any gradient, by variant
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import memt
from autograd import gradient_errors, value_and_grad
from experiments.bridge import reference_loss_and_grads

from .support import AT, cases, configs, loss_of, random_case, random_mask

torch.set_num_threads(1)  # at these sizes a second thread only waits


@pytest.mark.parametrize("variant", memt.VARIANTS)
@settings(max_examples=150)
@given(st.data())
def test_loss_and_every_gradient(variant, data):
    case = data.draw(cases(variant))
    loss, grads = memt.loss_and_grads(*case)
    positions = np.arange(case.tokens.shape[1])[slice(None) if case.at is None else case.at]
    reference, by_torch = reference_loss_and_grads(*case._replace(at=positions.copy()))
    assert abs(loss - reference) < 1e-12
    errors = gradient_errors(grads, by_torch)
    assert max(errors.values()) < 1e-10, errors


def table():
    """variant -> largest error against PyTorch, largest against the tape, number of models."""
    worst = {variant: np.zeros(3) for variant in memt.VARIANTS}
    for seed, base in enumerate(configs()):
        for width, heads in ((4, 2), (12, 3), (32, 4)):
            config = replace(base, width=width, heads=heads)
            for kind, at in AT.items():
                rng = np.random.default_rng(seed)
                mask = random_mask(config, rng) if kind == "some" else None
                case = random_case(config, rng, at, mask)
                _, grads = memt.loss_and_grads(*case)
                _, by_torch = reference_loss_and_grads(*case)
                _, by_tape = value_and_grad(loss_of(case))(case.params)
                new = [max(gradient_errors(grads, g).values()) for g in (by_torch, by_tape)]
                row = worst[config.variant]
                row[:] = *np.maximum(row[:2], new), row[2] + 1
    return worst


if __name__ == "__main__":
    print("largest error of any gradient, float64   against PyTorch   against the tape   models")
    for variant, (by_torch, by_tape, n) in table().items():
        print(f"{variant:<40} {by_torch:15.1e} {by_tape:18.1e} {n:8.0f}")
