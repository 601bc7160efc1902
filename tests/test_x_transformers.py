"""The cross-check against x-transformers, the code in which memory tokens are best known: on the
same parameters the same logits, final memory and gradients; trained, the same answers; trained
on, the same losses. carry.py says what the two can't share, and how the rest is made the same.

    python -m tests.test_x_transformers      # the largest errors, and those of planted differences
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import memt
import train_toy
from autograd import gradient_errors
from memt import Config

from .carry import from_torch, from_x_transformers, to_torch, to_x_transformers, x_forward
from .support import configs, name, random_params
from .test_torch import twin

torch.set_num_threads(1)  # at these sizes a second thread only waits: up to 40x slower

KINDS = ("transformer", "memtransformer", "masked", "transformer-window", "memtransformer-window")


def random_config(seed: int) -> Config:
    """The kinds in turn; every size by chance, with one head, one memory and one layer among them.

    At width 2 a LayerNorm gives only signs: nothing is left to compare.
    """
    rng = np.random.default_rng([50, seed])
    variant, _, window = KINDS[seed % len(KINDS)].partition("-")
    heads, symbols, hidden, layers = (int(rng.integers(1, top)) for top in (5, 12, 40, 4))
    return Config(
        symbols=symbols, heads=heads, width=heads * int(rng.choice((4, 6, 8))), hidden=hidden,
        layers=layers, memory=0 if variant == "transformer" else int(rng.integers(1, 9)),
        variant=variant, window=int(rng.integers(4)) if window else None,
    )  # fmt: skip


CONFIGS = [random_config(seed) for seed in range(30)]


def sizes(config: Config) -> str:
    c, window = config, "" if config.window is None else f"-window{config.window}"
    return f"{c.variant}{window}-L{c.layers}-C{c.width}-H{c.heads}-F{c.hidden}-M{c.memory}"


def compare(config: Config, plant=lambda net: None) -> dict[str, float]:
    """logits, final memory, every gradient -> error; `plant` changes the peer."""
    rng = np.random.default_rng(51)
    params, B, T = random_params(config, rng), rng.integers(1, 4), rng.integers(6, 12)
    tokens = rng.integers(config.symbols + 1, size=(B, T))
    dlogits = rng.standard_normal((B, T, config.symbols))
    logits, cache = memt.model_forward(params, tokens, config)
    net = to_x_transformers(params, config)
    weights = dict(net.named_parameters())
    plant(net)
    x_logits, x_memory = x_forward(net, torch.from_numpy(tokens), config)
    x_logits.backward(torch.from_numpy(dlogits))
    ours = {"logits": logits, "final memory": memt.final_memory(cache)}
    theirs = {"logits": x_logits.detach().numpy(), "final memory": x_memory.detach().numpy()}
    x_grads = from_x_transformers({n: w.grad for n, w in weights.items()}, config)
    errors = gradient_errors(memt.model_backward(dlogits, cache), x_grads)
    return gradient_errors(ours, theirs) | errors


@pytest.mark.parametrize("config", CONFIGS, ids=sizes)
def test_logits_final_memory_and_every_gradient(config):
    errors = compare(config)
    assert errors.keys() == {"logits", "final memory", *memt.param_shapes(config)}
    assert max(errors.values()) < 1e-10, errors


# ---------------------------------------------------------------- planted differences are seen


def wrong_sign(net):
    """x - MH(x, x) in the first layer."""
    attention = net.attn_layers.layers[0][1]
    attention.register_forward_hook(lambda _, x, out: (-out[0], *out[1:]))


def memory_last(net):
    """[seq; mem] goes in; mask and cut are those of [mem; seq]."""
    M = net.num_memory_tokens
    net.attn_layers.register_forward_pre_hook(lambda _, x: (x[0].roll(-M, 1), *x[1:]))


def pre_norm(net):
    """x + MH(LN(x), LN(x)), of the same parameters."""
    for norms, _, _ in net.attn_layers.layers:
        norms[0], norms[2] = norms[2], None


def gelu(net):
    """Their default activation."""
    for _, block, _ in net.attn_layers.layers[1::2]:
        block.ff[0][1] = nn.GELU()


def float32_softmax(net):
    """Their default attention."""
    for _, block, _ in net.attn_layers.layers[::2]:
        block.attend.flash = False


PLANTED = {wrong_sign: 0.1, memory_last: 0.1, pre_norm: 0.1, gelu: 0.01, float32_softmax: 1e-9}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("config", CONFIGS[:10], ids=sizes)
def test_planted_difference_is_seen(config, plant):
    errors = compare(config, plant)
    if plant is memory_last and not config.memory:
        assert max(errors.values()) < 1e-10  # nothing was moved
    else:
        assert max(errors["logits"], errors["embed"]) > PLANTED[plant]


@pytest.mark.parametrize("config", CONFIGS[:10], ids=sizes)
def test_wrong_sign_in_our_wiring_is_seen(config, monkeypatch):
    def update_backward(*arguments):
        dx, dcontext = memt_update_backward(*arguments)
        return -dx, dcontext

    memt_update_backward = memt.update_backward
    monkeypatch.setattr(memt, "update_backward", update_backward)
    errors = compare(config)
    assert errors["logits"] < 1e-10 and errors["embed"] > 0.1


def memory_last_everywhere(net):
    """[seq; mem] goes in and is cut where it must be: only the mask is that of [mem; seq]."""
    memory_last(net)
    M = net.num_memory_tokens
    net.attn_layers.register_forward_hook(lambda _, x, out: (out[0].roll(M, 1), *out[1:]))


@pytest.mark.parametrize("config", CONFIGS[:10], ids=sizes)
def test_memory_stands_in_front_by_convention(config):
    """Nothing but the mask and the cut knows a row's place: moved with them, memory is the same."""
    errors = compare(config, memory_last_everywhere)
    by_place = config.memory and (config.variant == "masked" or config.window is not None)
    assert (max(errors.values()) > 0.1) if by_place else (max(errors.values()) < 1e-10)


# ---------------------------------------------------------------- there and back, and what can't go


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("config", configs(layers=(2,)), ids=name)
def test_there_and_back(config, dtype):
    params = random_params(config, np.random.default_rng(52), dtype)
    returned = [from_torch(to_torch(params), config)]
    if config.variant not in ("memctrl", "membottleneck"):
        net = to_x_transformers(params, config)
        returned += [from_x_transformers(net.state_dict(), config)]
    for back in returned:
        assert memt.flat(back).dtype == dtype
        assert (memt.flat(back) == memt.flat(params)).all()


@pytest.mark.parametrize("variant", ("memctrl", "membottleneck"))
def test_two_updates_in_a_layer_are_refused(variant):
    config = Config(variant=variant)
    with pytest.raises(ValueError, match=variant):
        to_x_transformers(memt.init_params(config, np.random.default_rng(53)), config)


# ---------------------------------------------------------------- a trained model


def trained(variant: str, **given):
    """-> settings, parameters in float32."""
    s = train_toy.default_settings(variant, **given)
    state = train_toy.start(s)
    for _ in train_toy.training(s, state):
        pass
    return s, state.params


@pytest.fixture(scope="module")
def solved():
    return trained("memtransformer")


def in_float64(params, config: Config):
    return memt.fill_params(config, {n: p.astype(np.float64) for n, p in params.items()})


def models(params, config: Config) -> dict:
    """Name -> (what torch.optim takes, tokens -> logits (B, T, S)) of every peer there is."""
    tensors = to_torch(params)
    found = {"twin": (tensors.values(), lambda tokens: twin(tensors, tokens, config)[0])}
    if config.variant not in ("memctrl", "membottleneck"):
        net = to_x_transformers(params, config)
        found["x-transformers"] = net.parameters(), lambda tokens: x_forward(net, tokens, config)[0]
    return found


def sequences_that_differ(params, s) -> dict[str, int]:
    """Peer -> how many of the 1,000 test sequences it answers otherwise than memt."""
    tokens, targets = train_toy.make_batch(s, train_toy.TEST_ON, train_toy.TEST)
    *_, ours = train_toy.evaluate(params, s, tokens, targets)
    differ = {}
    for peer, (_, logits) in models(params, s.config()).items():
        with torch.no_grad():
            theirs = logits(torch.from_numpy(tokens))[:, train_toy.slots(s)].argmax(-1).numpy()
        differ[peer] = int((theirs != ours).any(axis=1).sum())
    return differ


def test_solved_model_gives_the_same_answers(solved):
    s, params = solved
    batch = train_toy.make_batch(s, train_toy.TEST_ON, train_toy.TEST)
    assert train_toy.evaluate(params, s, *batch)[2] > 0.99
    assert sequences_that_differ(params, s) == {"twin": 0, "x-transformers": 0}
    params = in_float64(params, s.config())
    assert sequences_that_differ(params, s) == {"twin": 0, "x-transformers": 0}


@pytest.mark.parametrize("variant", memt.VARIANTS)
def test_half_trained_model_gives_the_same_answers(variant):
    """Its answers are close calls."""
    s, params = trained(variant, steps=20, batch=16)
    assert not any(sequences_that_differ(in_float64(params, s.config()), s).values())


# ---------------------------------------------------------------- training goes on


def our_losses(params, s, batches, lr: float) -> list[float]:
    """Trains params."""
    vector, losses = memt.flat(params), []
    m, v = np.zeros_like(vector), np.zeros_like(vector)
    for step, batch in enumerate(batches, 1):
        loss, grad = train_toy.loss_and_grads(params, s, *batch)
        train_toy.adam(vector, grad, m, v, step, lr)
        losses.append(loss)
    return losses


def peer_losses(tensors, logits, s, batches, lr: float, **other) -> list[float]:
    """Trains tensors; `other` goes to Adam."""
    adam, losses = torch.optim.Adam(tensors, lr, **other), []
    for tokens, targets in batches:
        out = logits(torch.from_numpy(tokens))[:, train_toy.slots(s)]
        loss = F.cross_entropy(out.flatten(0, 1), torch.from_numpy(targets.copy()).flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses


def fifty_more(solved, task: str, peers=("twin", "x-transformers"), **other) -> dict:
    """Peer -> how far its losses are from memt's, step by step; `other` goes to its Adam."""
    s, params = replace(solved[0], task=task, batch=16), in_float64(solved[1], solved[0].config())
    batches = [train_toy.make_batch(s, s.batch, train_toy.TRAINING, 5000 + i) for i in range(50)]
    theirs = models(params, s.config())
    ours = our_losses(params, s, batches, s.lr)
    return {
        peer: abs(np.subtract(ours, peer_losses(*theirs[peer], s, batches, s.lr, **other)))
        for peer in peers
    }


@pytest.mark.parametrize("task", ("reverse", "copy"))
def test_losses_of_fifty_more_steps(solved, task):
    """On the task that it has learned, and on another, which it must learn anew."""
    for peer, differences in fifty_more(solved, task).items():
        assert len(differences) == 50
        assert differences.max() < 1e-6, peer


def test_another_adam_is_seen(solved):
    assert fifty_more(solved, "reverse", ["twin"], eps=1e-7)["twin"].max() > 1e-4


def extremes(configs, plant=lambda net: None) -> str:
    """Smallest and largest error: logits, final memory, worst gradient of each configuration."""
    rows = []
    for config in configs:
        logits, memory, *gradients = compare(config, plant).values()
        rows.append((logits, memory, max(gradients)))
    return "".join(f"{min(c):12.1e} to {max(c):.1e}" for c in zip(*rows, strict=True))


if __name__ == "__main__":
    with_memory = [config for config in CONFIGS if config.memory]
    print("error, float64                   logits           final memory         worst gradient")
    print(f"{f'{len(CONFIGS)} configurations':<20}{extremes(CONFIGS)}")
    for plant in PLANTED:
        print(f"{plant.__name__:<20}{extremes(with_memory, plant)}")
