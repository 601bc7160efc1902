"""Models to PyTorch and x-transformers and back; stress tests and mutants in miniature."""

from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import memt
import train_toy
from autograd import gradient_errors
from experiments import bridge, mutants, stress

from .support import cases, configs, name, random_params

torch.set_num_threads(1)  # at these sizes a second thread only waits
SHARED = ("transformer", "memtransformer", "masked")


@settings(max_examples=30)
@given(st.sampled_from(SHARED).flatmap(cases), st.integers(0, 2**32))
def test_x_transformers_gives_the_same(case, seed):
    """Another implementation, not ours: logits, final memory, gradients."""
    config, net = case.config, bridge.to_x_transformers(case.params, case.config)
    logits, cache = memt.model_forward(case.params, case.tokens, config)
    dlogits = np.random.default_rng(seed).standard_normal(logits.shape)
    x_logits, x_memory = bridge.x_forward(net, torch.tensor(case.tokens), config)
    x_logits.backward(torch.tensor(dlogits))
    assert abs(x_logits.detach().numpy() - logits).max() < 1e-10
    assert abs(x_memory.detach().numpy() - memt.memory_states(cache)[-1]).max(initial=0) < 1e-10
    theirs = bridge.from_x_transformers({n: w.grad for n, w in net.named_parameters()}, config)
    errors = gradient_errors(memt.model_backward(dlogits, cache), theirs)
    assert max(errors.values()) < 1e-10, errors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("config", configs(layers=(2,)), ids=name)
def test_there_and_back(config, dtype):
    params = random_params(config, np.random.default_rng(51), dtype)
    returned = [bridge.from_torch(bridge.to_torch(params), config)]
    if config.variant in SHARED:
        tensors = bridge.to_x_transformers(params, config).state_dict()
        returned += [bridge.from_x_transformers(tensors, config)]
    for back in returned:
        assert memt.flat(back).dtype == dtype and (memt.flat(back) == memt.flat(params)).all()


@pytest.mark.parametrize("optimizer", train_toy.OPTIMIZERS)
@pytest.mark.parametrize("variant", memt.VARIANTS)
def test_training_is_that_of_pytorch(variant, optimizer, monkeypatch):
    """By torch.optim's Muon and Adam on the same batches, in float64: losses and parameters."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor)  # Muon would round to it
    s = train_toy.default_settings(variant, length=4, steps=40, optimizer=optimizer)
    state = train_toy.start(s)
    state.vectors = {name: vector.astype(float) for name, vector in state.vectors.items()}
    tensors = bridge.to_torch(state.weights)
    step, model = bridge.optimizer(tensors, s), bridge.to_torch(state.params)
    for _ in train_toy.training(s, state):
        tokens, targets, at, _ = train_toy.make_batch(s, 32, train_toy.TRAINING, state.step)
        logits = bridge.reference_forward(tensors, torch.tensor(tokens), s.config)[0][:, at]
        loss = F.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())
        for tensor in tensors.values():
            tensor.grad = None
        loss.backward()
        step()
        with torch.no_grad():
            for mean, tensor in zip(model.values(), tensors.values(), strict=True):
                mean.lerp_(tensor, 0.1 if optimizer == "muon" else 1)
        assert abs(loss.item() - state.loss) < 1e-10
    for ours, theirs in (state.weights, tensors), (state.params, model):
        assert abs(memt.flat(bridge.from_torch(theirs, s.config)) - memt.flat(ours)).max() < 1e-10


def test_training_continues_in_x_transformers_and_comes_back():
    """By torch.optim.Adam on the same batches: the same losses and the same final parameters."""
    s = train_toy.default_settings("memtransformer", length=4)
    params, config = random_params(s.config, np.random.default_rng(52)), s.config
    net = bridge.to_x_transformers(params, config)
    adam, vector = torch.optim.Adam(net.parameters(), lr=2e-3), memt.flat(params)
    m, v = np.zeros_like(vector), np.zeros_like(vector)
    for step in range(1, 41):
        tokens, targets, at, _ = train_toy.make_batch(s, 16, train_toy.TRAINING, step)
        loss, grads = memt.loss_and_grads(params, tokens, targets, config, at)
        vector -= 2e-3 * train_toy.adam(memt.flat(grads), m, v, step)
        logits = bridge.x_forward(net, torch.tensor(tokens), config)[0][:, at]
        theirs = F.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())
        adam.zero_grad()
        theirs.backward()
        adam.step()
        assert abs(theirs.item() - loss) < 1e-10
    back = bridge.from_x_transformers(net.state_dict(), config)
    assert abs(memt.flat(back) - vector).max() < 1e-8


CONFIG = memt.Config(variant="memtransformer", layers=3)
PARAMS, TOKENS = memt.init_params(CONFIG, np.random.default_rng(50)), torch.zeros(1, 3).long()
NET = bridge.to_x_transformers(PARAMS, CONFIG)
PLAIN = memt.Config(variant="transformer", memory=0, layers=3)


@pytest.mark.parametrize(
    "carry, given, config, message",
    [
        (bridge.to_x_transformers, PARAMS, replace(CONFIG, layers=2), "'layers.2"),
        (bridge.to_x_transformers, PARAMS, PLAIN, r"'memory'.*\(10, 32\).*\(0, 32\)"),
        (bridge.to_x_transformers, PARAMS, replace(CONFIG, variant="memctrl"), "memctrl"),
        (bridge.from_x_transformers, NET.state_dict(), replace(CONFIG, layers=2), "unexpected"),
        (bridge.from_x_transformers, NET.state_dict(), replace(CONFIG, layers=4), "missing"),
        (bridge.from_x_transformers, NET.state_dict(), PLAIN, "'memory_tokens' is unexpected"),
        (
            partial(bridge.reference_forward, bridge.to_torch(PARAMS)),
            TOKENS,
            PLAIN,
            "do not fit this",
        ),
        (partial(bridge.x_forward, NET), TOKENS, PLAIN, "memory is 0: the net has 10"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(carry, given, config, message):
    with pytest.raises(ValueError, match=f"^.*{message}.*$") as error:
        carry(given, config)
    assert "\n" not in str(error.value)


def test_the_reference_takes_no_new_variant_for_an_old_one(monkeypatch):
    monkeypatch.setattr(memt, "WIRINGS", memt.WIRINGS | {"new": memt.WIRINGS["masked"]})
    monkeypatch.setattr(memt, "VARIANTS", ("new",))
    with pytest.raises(ValueError, match="variant is 'new'"):
        bridge.reference_forward(bridge.to_torch(PARAMS), TOKENS, replace(CONFIG, variant="new"))


def test_stress_passes_and_sees_a_wrong_gradient(monkeypatch):
    assert stress.configurations(30, 0) and stress.training(50, 0) and stress.fuzz(300, 0)
    monkeypatch.setattr(memt, "relu_backward", lambda dy, y: dy * (y > -1e-9))
    assert not stress.configurations(2, 0)


def test_mutants_depend_on_the_seed_alone():
    one, two, other = (list(islice(mutants.draw("memt", seed), 9)) for seed in (1, 1, 2))
    assert one == two != other
    assert all(compile(source, path, "exec") for path, source, _ in one)
