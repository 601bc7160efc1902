"""A memt model carried to PyTorch and to x-transformers 2.31.10, and back: copy what you need.

To PyTorch, every variant: `to_torch` gives tensors under memt's names, `twin` of test_torch.py
computes with them, `from_torch` brings them back.

To x-transformers, what it can be: transformer, memtransformer, masked, and a window. It can't be

    memctrl, membottleneck   two updates in a layer, an Encoder has one: refused
    read=...                 it computes every row: cut its logits instead

and what it does otherwise by default is set here: post-LN, LayerNorms with a bias, ReLU, memt's
positions and readout, the softmax in the type of the weights.
"""

import numpy as np
import torch
from torch import nn
from x_transformers import Encoder, TransformerWrapper

import memt
from memt import Config, Params

# memt's name -> theirs, of the whole model and of one layer, in which mh and ff are two of theirs
MODEL = {
    "embed": ["token_emb.emb.weight"],
    "memory": ["memory_tokens"],
    "out_w": ["to_logits.weight"],
    "out_b": ["to_logits.bias"],
}
LAYER = {
    "wq": ["{mh}.1.to_q.weight"],
    "wkv": ["{mh}.1.to_k.weight", "{mh}.1.to_v.weight"],
    "wo": ["{mh}.1.to_out.weight"],
    "ln1_g": ["{mh}.0.2.weight"],
    "ln1_b": ["{mh}.0.2.bias"],
    "w1": ["{ff}.1.ff.0.0.weight"],
    "b1": ["{ff}.1.ff.0.0.bias"],
    "w2": ["{ff}.1.ff.2.weight"],
    "b2": ["{ff}.1.ff.2.bias"],
    "ln2_g": ["{ff}.0.2.weight"],
    "ln2_b": ["{ff}.0.2.bias"],
}


def to_torch(params: Params) -> dict[str, nn.Parameter]:
    """memt -> PyTorch: copies for torch.optim, run by `twin(tensors, tokens, config)`."""
    return {name: nn.Parameter(torch.tensor(p)) for name, p in params.items()}


def from_torch(tensors: dict[str, torch.Tensor], config: Config) -> Params:
    """PyTorch -> memt: tensors under memt's names, float32 or float64, of any device."""
    return memt.fill_params(config, {n: t.detach().cpu().numpy() for n, t in tensors.items()})


def to_x_transformers(params: Params, config: Config) -> TransformerWrapper:
    """memt -> x-transformers: a copy in the same float type, run by `x_forward`."""
    net, state = x_transformer(config), {}
    for name, theirs in x_names(config).items():
        w = params[name] if name in ("embed", "memory") else params[name].T  # Linear stores wᵀ
        state |= zip(theirs, torch.tensor(w).chunk(len(theirs)), strict=True)
    net.to(state["to_logits.bias"].dtype).load_state_dict(state)  # every name, or it raises
    return net


def from_x_transformers(tensors: dict[str, torch.Tensor], config: Config) -> Params:
    """x-transformers -> memt: `net.state_dict()`, or gradients under the same names."""
    found = {"memory": tensors["token_emb.emb.weight"][:0]}  # (0, C) where they have none
    for name, theirs in x_names(config).items():
        w = torch.cat([tensors[n] for n in theirs])
        found[name] = w if name in ("embed", "memory") else w.t()
    return from_torch(found, config)


def x_names(config: Config) -> dict[str, list[str]]:
    """memt's name -> theirs: one, or that of the keys and that of the values."""
    names = {n: theirs for n, theirs in MODEL.items() if n != "memory" or config.memory}
    for l in range(config.layers):
        mh, ff = (f"attn_layers.layers.{i}" for i in (2 * l, 2 * l + 1))
        for n, theirs in LAYER.items():
            names[f"layers.{l}.all.{n}"] = [t.format(mh=mh, ff=ff) for t in theirs]
    return names


def x_transformer(config: Config) -> TransformerWrapper:
    """Their model of this shape with random weights. Raises ValueError where they have none."""
    if config.variant in ("memctrl", "membottleneck"):
        raise ValueError(f"variant is {config.variant!r}: x-transformers has one update in a layer")
    C, H = config.width, config.heads
    layers = Encoder(
        dim=C, depth=config.layers, heads=H, attn_dim_head=C // H,
        ff_mult=(config.hidden + 0.5) / C,  # they round C · ff_mult down
        pre_norm=False, norm_add_unit_offset=False, ff_custom_activation=nn.ReLU(),
        attn_project_out=True,  # one head would have no wo
        attn_flash=True,  # else the softmax is float32, whatever the weights are
    )  # fmt: skip
    for norms, _, _ in layers.layers:
        norms[2] = nn.LayerNorm(C)  # theirs has no bias
    return TransformerWrapper(
        num_tokens=config.symbols + 1, max_seq_len=0, num_memory_tokens=config.memory,
        attn_layers=layers, to_logits=nn.Linear(C, config.symbols),
    )  # fmt: skip


def x_forward(net: TransformerWrapper, tokens: torch.Tensor, config: Config):
    """Tokens (B, T), on the device of net -> logits (B, T, S), final memory (B, M, C)."""
    (B, T), like = tokens.shape, net.token_emb.emb.weight
    positions = torch.from_numpy(memt.sinusoids(T, config.width, np.float64)).to(like)
    mask = x_mask(config, T, tokens.device)
    logits, inner = net(tokens, sum_embeds=positions, attn_mask=mask, return_intermediates=True)
    empty = like.new_zeros(B, 0, config.width)
    return logits, inner.memory_tokens if config.memory else empty


def x_mask(config: Config, T: int, device) -> torch.Tensor | None:
    """(M+T, M+T) booleans, True where a target row may see a source column; None: all may."""
    radius = -1 if config.variant == "masked" else config.window
    if radius is None:
        return None
    column = torch.arange(config.memory + T, device=device)
    row = column[:, None]
    return (row < config.memory) | (column < config.memory) | ((row - column).abs() <= radius)
