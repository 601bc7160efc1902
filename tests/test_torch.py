"""The PyTorch cross-check: every variant written again in torch.nn.functional, on the same
parameters; its loss and all gradients (by torch's autograd) must be memt's.

It shares no code with memt.py: heads are cut out one by one, masks are sets of booleans, the whole
sequence is always computed and only then cut to what is read.

    python -m tests.test_torch      # the largest error of any gradient, by variant
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import memt
from autograd import gradient_errors, value_and_grad

from .support import (
    READS,
    configs,
    loss_and_grads,
    loss_function,
    name,
    random_batch,
    random_params,
)  # fmt: skip


def attention(x, context, p, heads, may_see):
    C = x.shape[-1]
    keys, values = p["wkv"].split(C, dim=1)
    out = 0
    for h in torch.arange(C).view(heads, -1):  # the columns of one head
        q, k, v = x @ p["wq"][:, h], context @ keys[:, h], context @ values[:, h]
        out = out + F.scaled_dot_product_attention(q, k, v, attn_mask=may_see) @ p["wo"][h]
    return out


def update(x, context, p, heads, may_see=None):
    C = x.shape[-1:]
    a = F.layer_norm(x + attention(x, context, p, heads, may_see), C, p["ln1_g"], p["ln1_b"])
    ff = F.linear(F.relu(F.linear(a, p["w1"].T, p["b1"])), p["w2"].T, p["b2"])
    return F.layer_norm(a + ff, C, p["ln2_g"], p["ln2_b"])


def positions(T, C):
    table = torch.zeros(T, C, dtype=torch.float64)
    for t in range(T):
        for i in range(C // 2):
            angle = torch.tensor(t, dtype=torch.float64) / 10000 ** (2 * i / C)
            table[t, 2 * i], table[t, 2 * i + 1] = angle.sin(), angle.cos()
    return table


def twin(params, tokens, config):
    """Dict of tensors, tokens (B, T) -> logits (B, T, S), final memory (B, M, C)."""

    def p(role, layer):
        prefix = f"layers.{layer}.{role}."
        if role == "mem" and config.share_controller:
            prefix = "controller."
        return {n.removeprefix(prefix): w for n, w in params.items() if n.startswith(prefix)}

    M, H, T = config.memory, config.heads, tokens.shape[1]
    seq = params["embed"][tokens] + positions(T, config.width).to(params["embed"].dtype)
    mem = params["memory"].expand(len(tokens), M, config.width)
    target, source = torch.arange(M + T)[:, None], torch.arange(M + T)
    may_see = (target < M) | (source < M)
    if config.variant != "masked":
        may_see |= (target - source).abs() <= (T if config.window is None else config.window)
    for layer in range(config.layers):
        both = torch.cat([mem, seq], dim=1)
        if config.variant == "memctrl":
            mem = update(mem, both, p("mem", layer), H)
            seq = update(seq, both, p("seq", layer), H, may_see[M:])
        elif config.variant == "membottleneck":
            mem = update(mem, both, p("mem", layer), H)
            seq = update(seq, mem, p("seq", layer), H)
        else:
            both = update(both, both, p("all", layer), H, may_see)
            mem, seq = both[:, :M], both[:, M:]
    return seq @ params["out_w"] + params["out_b"], mem


def twin_loss_and_grads(params, tokens, targets, config, read=None):
    """Like support.loss_and_grads, by PyTorch."""
    tensors = {n: torch.tensor(p, requires_grad=True) for n, p in params.items()}
    logits, _ = twin(tensors, torch.from_numpy(tokens), config)
    logits = logits[:, slice(None) if read is None else read]
    loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
    loss.backward()
    zero = torch.zeros
    grads = {n: zero(t.shape) if t.grad is None else t.grad for n, t in tensors.items()}
    return loss.item(), {n: g.numpy() for n, g in grads.items()}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("config", configs(), ids=name)
def test_loss_and_every_gradient(config, read):
    rng = np.random.default_rng(40)
    params, batch = random_params(config, rng), random_batch(config, rng, read)
    loss, grads = loss_and_grads(params, *batch, config, read)
    reference, torch_grads = twin_loss_and_grads(params, *batch, config, read)
    assert abs(loss - reference) < 1e-13
    errors = gradient_errors(grads, torch_grads)
    assert max(errors.values()) < 1e-10, errors


@pytest.mark.parametrize("config", configs(layers=(2,)), ids=name)
def test_logits_and_final_memory(config):
    rng = np.random.default_rng(41)
    params, (tokens, _) = random_params(config, rng), random_batch(config, rng)
    tensors = {n: torch.from_numpy(p) for n, p in params.items()}
    logits, mem = twin(tensors, torch.from_numpy(tokens), config)
    ours, cache = memt.model_forward(params, tokens, config)
    assert abs(ours - logits.numpy()).max() < 1e-13
    assert abs(memt.final_memory(cache) - mem.numpy()).max(initial=0) < 1e-13


def table():
    """variant -> largest error against PyTorch, largest against the tape, number of models."""
    worst = dict.fromkeys(memt.VARIANTS, (0.0, 0.0, 0))
    for seed, base in enumerate(configs()):
        for width, heads in ((4, 2), (12, 3), (32, 4)):
            config = replace(base, width=width, heads=heads)
            for read in READS.values():
                rng = np.random.default_rng(seed)
                params, batch = random_params(config, rng), random_batch(config, rng, read)
                _, grads = loss_and_grads(params, *batch, config, read)
                _, by_torch = twin_loss_and_grads(params, *batch, config, read)
                _, by_tape = value_and_grad(loss_function(*batch, config, read))(params)
                new = (max(gradient_errors(grads, g).values()) for g in (by_torch, by_tape))
                a, b, n = worst[config.variant]
                worst[config.variant] = (max(a, next(new)), max(b, next(new)), n + 1)
    return worst


if __name__ == "__main__":
    print("largest error of any gradient, float64   against PyTorch   against the tape   models")
    for variant, (by_torch, by_tape, n) in table().items():
        print(f"{variant:<40} {by_torch:15.1e} {by_tape:18.1e} {n:8}")
