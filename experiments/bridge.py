"""memt models to and from PyTorch and x-transformers 2.31.10: copy what you need.

PyTorch, every variant: `to_torch` gives tensors under memt's names, `reference_forward` computes
with them, `from_torch` converts them back. memt is tested against this reference, so it shares no
code with memt.py: heads are computed one by one, masks are booleans, every row is computed.

x-transformers: transformer, memtransformer, masked, and a window. Not memctrl and membottleneck,
which have two updates in a layer where an Encoder has one. `x_transformer` sets what x-transformers
does differently by default: post-LN, LayerNorms with a bias, ReLU, memt's positions and output, the
softmax in the type of the weights. Only `x_transformer` needs x-transformers, only
`optimizer` needs train_toy.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import memt

# ---------------------------------------------------------------- the reference implementation


def attention(x, context, p, heads, allowed):
    C = x.shape[-1]
    keys, values = p["wkv"].split(C, dim=1)

    def head(h):  # h: the columns of the head
        q, k, v = x @ p["wq"][:, h], context @ keys[:, h], context @ values[:, h]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed) @ p["wo"][h]

    return sum(map(head, torch.arange(C).view(heads, -1)))


def update(x, context, p, heads, allowed):
    C = x.shape[-1:]
    a = F.layer_norm(x + attention(x, context, p, heads, allowed), C, p["ln1_g"], p["ln1_b"])
    ff = F.linear(F.relu(F.linear(a, p["w1"].T, p["b1"])), p["w2"].T, p["b2"])
    return F.layer_norm(a + ff, C, p["ln2_g"], p["ln2_b"])


def positions(config, T):
    """(T, C); zeros for a model without positions."""
    C = config.width
    table = torch.zeros(T, C, dtype=torch.float64)
    for t in range(T if config.positions else 0):
        for i in range(C // 2):
            angle = torch.tensor(t, dtype=torch.float64) / 10000 ** (2 * i / C)
            table[t, 2 * i], table[t, 2 * i + 1] = angle.sin(), angle.cos()
    return table


def allowed_rows(config, T, mask, device):
    """(M+T, M+T), with a mask (B, M+T, M+T): True where a target may attend to a source."""
    row = torch.arange(config.memory + T, device=device)
    memory = row < config.memory
    allowed = memory[:, None] | memory
    if config.variant != "masked":
        radius = T if config.window is None else config.window
        allowed = allowed | ((row[:, None] - row).abs() <= radius)
    return allowed if mask is None else allowed & mask


def reference_forward(tensors, tokens, config, mask=None):
    """Tensors under memt's names, tokens (B, T) -> logits (B, T, O), final memory (B, M, C).

    mask: a boolean tensor, as in memt.model_forward. Raises ValueError for an unknown variant, and
    for tensors of another config.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    memt.must(shapes == memt.param_shapes(config), "the tensors do not fit this config")

    def p(role, layer):
        prefix = f"layers.{layer}.{role}."
        if role == "mem" and config.share_controller:
            prefix = "controller."
        return {n.removeprefix(prefix): w for n, w in tensors.items() if n.startswith(prefix)}

    M, H, (B, T) = config.memory, config.heads, tokens.shape
    seq = tensors["embed"][tokens] + positions(config, T).to(tensors["embed"])
    mem = tensors["memory"].expand(B, M, config.width)
    allowed = allowed_rows(config, T, mask, tokens.device).expand(B, M + T, M + T)
    for layer in range(config.layers):
        both = torch.cat([mem, seq], dim=1)
        if config.variant in ("transformer", "memtransformer", "masked"):
            both = update(both, both, p("all", layer), H, allowed)
            mem, seq = both[:, :M], both[:, M:]
        elif config.variant == "memctrl":
            mem = update(mem, both, p("mem", layer), H, allowed[:, :M])
            seq = update(seq, both, p("seq", layer), H, allowed[:, M:])
        elif config.variant == "membottleneck":
            mem = update(mem, both, p("mem", layer), H, allowed[:, :M])
            seq = update(seq, mem, p("seq", layer), H, allowed[:, M:, :M])
        else:
            raise ValueError(f"variant is {config.variant!r}: not in the reference implementation")
    return seq @ tensors["out_w"] + tensors["out_b"], mem


def reference_loss_and_grads(params, tokens, targets, config, at=None, mask=None):
    """memt.loss_and_grads by PyTorch's autograd: the loss, a number, and name -> gradient."""
    tensors = to_torch(params)
    mask = None if mask is None else torch.tensor(mask)
    logits, _ = reference_forward(tensors, torch.tensor(tokens), config, mask)
    if at is not None:
        logits = logits[:, torch.tensor(np.arange(tokens.shape[1])[at].copy())]
    loss = F.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())
    loss.backward()
    grads = {n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in tensors.items()}
    return loss.item(), {n: g.numpy() for n, g in grads.items()}


def optimizer(tensors, s):
    """-> step(): clips the gradients and moves the tensors of `to_torch` as train_toy does.

    The running mean of the weights, which is train_toy's model, is left to the caller.
    """
    import train_toy

    if s.optimizer == "muon":
        matrices = [n for n in tensors if n.endswith((".wq", ".wkv", ".wo", ".w1", ".w2"))]
        groups = [
            # torch.optim.Muon multiplies a tall matrix's rate by √(rows / columns); memt does not
            {"params": [w], "lr": 10 * s.lr / max(1, len(w) / w.shape[1]) ** 0.5}
            for w in map(tensors.get, matrices)
        ]
        rest = [w for n, w in tensors.items() if n not in matrices]
        muon = torch.optim.Muon(groups, momentum=0.7, weight_decay=0)
        optimizers = muon, torch.optim.Adam(rest, s.lr, betas=(0.7, 0.99))
    else:
        optimizers = (torch.optim.Adam(tensors.values(), s.lr),)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda n: train_toy.learning_rate(s, n + 1) / s.lr)
        for o in optimizers
    ]

    def step():
        grads = [w.grad for w in tensors.values() if w.grad is not None]  # some are None in memctrl
        torch._foreach_div_(grads, torch.nn.utils.get_total_norm(grads).clamp(min=1))
        for each in (*optimizers, *schedules):
            each.step()

    return step


def to_torch(params):
    """memt -> PyTorch: copies for torch.optim, run by `reference_forward`."""
    return {name: nn.Parameter(torch.tensor(p)) for name, p in params.items()}


def from_torch(tensors, config):
    """PyTorch -> memt: tensors under memt's names, float32 or float64, on any device.

    Raises ValueError unless they are finite and match the configuration.
    """
    return memt.to_params(config, {n: t.detach().cpu().numpy() for n, t in tensors.items()})


# ---------------------------------------------------------------- x-transformers

# memt's name -> theirs, for the model and for one layer; mh and ff are two of their layers
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


def x_names(config):
    """memt's name -> theirs, a list: one name, or two for the keys and the values.

    Raises ValueError for a variant that x-transformers does not have.
    """
    if config.variant not in ("transformer", "memtransformer", "masked"):
        raise ValueError(f"variant is {config.variant!r}: x-transformers has one update per layer")
    names = {n: theirs for n, theirs in MODEL.items() if n != "memory" or config.memory}
    for l in range(config.layers):
        mh, ff = (f"attn_layers.layers.{i}" for i in (2 * l, 2 * l + 1))
        for n, theirs in LAYER.items():
            names[f"layers.{l}.all.{n}"] = [t.format(mh=mh, ff=ff) for t in theirs]
    return names


def x_transformer(config):
    """The x-transformers model of this shape, with random weights."""
    from x_transformers import Encoder, TransformerWrapper

    C, H = config.width, config.heads
    layers = Encoder(
        dim=C,
        depth=config.layers,
        heads=H,
        attn_dim_head=C // H,
        ff_mult=(config.hidden + 0.5) / C,  # they round C · ff_mult down
        pre_norm=False,
        norm_add_unit_offset=False,
        ff_custom_activation=nn.ReLU(),
        attn_project_out=True,  # else a single head would have no wo
        attn_flash=True,  # otherwise the softmax is always float32
    )
    for norms, _, _ in layers.layers:
        norms[2] = nn.LayerNorm(C)  # with a bias; theirs has none
    return TransformerWrapper(
        num_tokens=config.symbols + 1,
        max_seq_len=0,
        num_memory_tokens=config.memory,
        attn_layers=layers,
        to_logits=nn.Linear(C, config.outputs or config.symbols),
    )


def to_x_transformers(params, config):
    """memt -> x-transformers: a copy in the same float type, run by `x_forward`.

    Raises ValueError for parameters that do not match the configuration, and for memctrl and
    membottleneck.
    """
    names, params = x_names(config), memt.to_params(config, params)
    net, state = x_transformer(config), {}
    for name, theirs in names.items():
        w = params[name] if name in ("embed", "memory") else params[name].T  # Linear stores wᵀ
        state |= zip(theirs, torch.tensor(w).chunk(len(theirs)), strict=True)
    net.to(state["to_logits.bias"].dtype).load_state_dict(state)
    return net


def from_x_transformers(tensors, config):
    """x-transformers -> memt: `net.state_dict()`, or gradients under the same names.

    Raises ValueError unless they match the configuration.
    """
    names = x_names(config)
    right = {theirs for pair in names.values() for theirs in pair}
    for name in sorted(right ^ tensors.keys()):
        found = "missing" if name in right else "unexpected"
        raise ValueError(f"tensor {name!r} is {found}: must be exactly those of this config")
    found = {"memory": tensors["token_emb.emb.weight"][:0]}  # (0, C) if they have no memory
    for name, theirs in names.items():
        w = torch.cat([tensors[n] for n in theirs])
        found[name] = w if name in ("embed", "memory") else w.t()
    return from_torch(found, config)


def x_forward(net, tokens, config):
    """Tokens (B, T), on the device of net -> logits (B, T, O), final memory (B, M, C)."""
    if net.num_memory_tokens != config.memory:
        raise ValueError(f"memory is {config.memory}: the net has {net.num_memory_tokens}")
    (B, T), like = tokens.shape, net.token_emb.emb.weight
    limited = config.variant == "masked" or config.window is not None
    logits, inner = net(
        tokens,
        sum_embeds=positions(config, T).to(like),
        attn_mask=allowed_rows(config, T, None, tokens.device) if limited else None,
        return_intermediates=True,
    )
    return logits, inner.memory_tokens if config.memory else like.new_zeros(B, 0, config.width)
