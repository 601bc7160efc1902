"""memt: the Memory Transformer (Burtsev et al., arXiv 2006.11527) in NumPy, gradients by hand.

Every piece is a pair that stands together: `x_forward(...) -> out, cache` computes, and
`x_backward(dout, cache) -> dx, ...` takes the gradient of the loss with respect to `out` back to
the inputs, line by line in reverse. A gradient is `d` + the name of what it belongs to.

The letters of all shapes:
    B  batch              T  sequence positions    M  memory tokens    R  positions that are read
    C  width              H  heads                 D  = C/H, width of one head
    F  hidden             L  layers                S  symbols
    N  rows that attend (targets, queries)         K  rows attended to (sources, keys and values)

Arrays have one float type throughout, that of the parameters: float32 to train, float64 to prove.
"Memory" means the M trainable [mem] vectors in front of the sequence and nothing else.
"""

import difflib
import functools
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import BinaryIO

import numpy as np

Array = np.ndarray
Params = dict[str, np.ndarray]

VARIANTS = ("transformer", "memtransformer", "masked", "memctrl", "membottleneck")


# ---------------------------------------------------------------- configuration and parameters


@dataclass(frozen=True)
class Config:
    """The whole shape of a model. Token ids are 0 … symbols-1, and one blank, `symbols`.

    Options, ours: `share_controller` (memctrl, membottleneck), one memory update for all layers;
    `window` (transformer, memtransformer, memctrl), a sequence row sees the sequence rows at most
    this many positions away; memory rows see all and are seen by all; None: no limit.
    Raises TypeError or ValueError, naming the field, its value and what would be right.
    """

    symbols: int = 10
    width: int = 32
    heads: int = 4
    hidden: int = 128
    layers: int = 2
    memory: int = 10
    variant: str = "membottleneck"
    share_controller: bool = False
    window: int | None = None

    def __post_init__(self):
        """Refuse what cannot work."""
        if self.variant not in VARIANTS:
            near = difflib.get_close_matches(str(self.variant), VARIANTS, 1, 0.0)[0]
            raise ValueError(f"variant is {self.variant!r}: unknown, did you mean {near!r}?")
        plain = self.variant == "transformer"
        two_roles = self.variant in ("memctrl", "membottleneck")
        if type(self.share_controller) is not bool:
            raise TypeError(f"share_controller is {self.share_controller!r}: must be True or False")
        for name in ("symbols", "width", "heads", "hidden", "layers"):
            check_size(name, getattr(self, name), 1)
        check_size("memory", self.memory, 0 if plain else 1)
        if plain and self.memory:
            raise ValueError(f"memory is {self.memory}: variant 'transformer' has none, give 0")
        if self.width % 2 or self.width % self.heads:
            raise ValueError(
                f"width is {self.width}: must be even and a multiple of heads ({self.heads})"
            )
        if self.share_controller and not two_roles:
            raise ValueError("share_controller is True: only memctrl and membottleneck have one")
        if self.window is not None:
            check_size("window", self.window, 0)
            if self.variant in ("masked", "membottleneck"):
                raise ValueError(f"window is {self.window}: must be None, {self.variant} has none")


def check_size(name: str, value: int, least: int) -> None:
    """Raise TypeError unless value is an int, ValueError unless it is in least … 2**31 - 1."""
    if type(value) is not int:
        raise TypeError(f"{name} is {value!r}: must be an int")
    if not least <= value < 2**31:
        raise ValueError(f"{name} is {value}: must be at least {least} and below 2**31")


@functools.cache
def param_shapes(config: Config) -> Mapping[str, tuple[int, ...]]:
    """Name -> shape of every parameter, in the order in which they are stored. y = x @ w."""
    C, F, S = config.width, config.hidden, config.symbols
    update = {"wq": (C, C), "wkv": (C, 2 * C), "wo": (C, C), "ln1_g": (C,), "ln1_b": (C,)}
    update |= {"w1": (C, F), "b1": (F,), "w2": (F, C), "b2": (C,), "ln2_g": (C,), "ln2_b": (C,)}
    prefixes = [prefix for l in range(config.layers) for prefix in role_names(config, l).values()]
    shapes = {"embed": (S + 1, C), "memory": (config.memory, C)}
    shapes |= {f"{p}.{name}": s for p in dict.fromkeys(prefixes) for name, s in update.items()}
    return shapes | {"out_w": (C, S), "out_b": (S,)}


def role_names(config: Config, layer: int) -> dict[str, str]:
    """Role -> prefix of its parameters in a layer: one role shared by all rows, or mem and seq."""
    if config.variant in ("transformer", "memtransformer", "masked"):
        return {"all": f"layers.{layer}.all"}
    mem = "controller" if config.share_controller else f"layers.{layer}.mem"
    return {"mem": mem, "seq": f"layers.{layer}.seq"}


def role_params(params: Params, config: Config, layer: int) -> dict[str, Params]:
    """Role -> short name -> array: what one layer's wiring takes, of parameters or gradients."""
    return {
        role: {n.rpartition(".")[2]: a for n, a in params.items() if n.startswith(prefix + ".")}
        for role, prefix in role_names(config, layer).items()
    }


def zero_params(config: Config, dtype=np.float32) -> Params:
    """Name -> array of zeros, all of them views into one vector, which `flat` returns.

    Raises ValueError unless dtype is float32 or float64.
    """
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype}: must be float32 or float64")
    shapes = param_shapes(config)
    ends = list(itertools.accumulate(map(math.prod, shapes.values()), initial=0))
    vector = np.zeros(ends[-1], dtype)
    parts = zip(shapes.items(), itertools.pairwise(ends), strict=True)
    return {name: vector[a:b].reshape(shape) for (name, shape), (a, b) in parts}


def init_params(config: Config, rng: np.random.Generator, dtype=np.float32) -> Params:
    """Random parameters (float32 or float64) as views into one vector, which `flat` returns.

    Ours: weights normal with variance 1/inputs, embedding and memory normal with variance 1 (as
    large as the positions), biases 0, gains 1. Draws are float64 whatever the dtype, so that both
    types start from the same model. Memory must be random: rows that start equal stay equal.
    """
    params = zero_params(config, dtype)
    for name, p in params.items():
        if name.endswith("_g"):
            p[...] = 1
        elif p.ndim == 2:
            fan_in = 1 if name in ("embed", "memory") else len(p)
            p[...] = rng.standard_normal(p.shape) / math.sqrt(fan_in)
    return params


def flat(params: Params) -> Array:
    """The one vector that all parameters (or gradients) are views of; changing it changes them.

    Raises ValueError if the arrays do not share one vector (copied or built one by one).
    """
    vector = params["embed"].base
    if vector is None or any(p.base is not vector for p in params.values()):
        raise ValueError("params are not views of one vector: make them with init_params or load")
    return vector


# ---------------------------------------------------------------- pieces


def rows_of(x: Array) -> Array:
    """(..., C) -> (rows, C): one large matrix product is faster than many small ones."""
    return x.reshape(-1, x.shape[-1])


def row_sum(x: Array) -> Array:
    """Sum over the last axis, kept: (..., C) -> (..., 1); a product with ones is the fast way."""
    return (rows_of(x) @ np.ones((x.shape[-1], 1), x.dtype)).reshape(*x.shape[:-1], 1)


def row_max(x: Array) -> Array:
    """Largest of the last axis, kept: (..., C) -> (..., 1)."""
    if x.shape[-1] > 64:
        return x.max(axis=-1, keepdims=True)
    # of short rows NumPy is three times as fast down the columns of a copy
    columns = np.copy(rows_of(x).T, order="C")
    return columns.max(axis=0).reshape(*x.shape[:-1], 1)


def column_sum(x: Array) -> Array:
    """Sum over every axis but the last: (..., C) -> (C,); again a product with ones."""
    return np.ones(x.size // x.shape[-1], x.dtype) @ rows_of(x)


def one_hot(ids: Array, size: int, dtype) -> Array:
    """Integers (...) -> (..., size): 1 at the id, 0 elsewhere."""
    return (ids[..., None] == np.arange(size)).astype(dtype)


def linear_forward(x: Array, w: Array, b: Array | None = None):
    """y = x w + b: x (..., I), w (I, O), b (O,) or None -> (..., O)."""
    y = (rows_of(x) @ w).reshape(*x.shape[:-1], w.shape[1])
    return (y if b is None else y + b), (x, w, b)


def linear_backward(dy: Array, cache):
    """dy (..., O) -> dx (..., I), dw (I, O), db (O,), None where the forward had no b."""
    x, w, b = cache
    dy2 = rows_of(dy)
    dx = (dy2 @ w.T).reshape(x.shape)
    dw = rows_of(x).T @ dy2
    return dx, dw, None if b is None else column_sum(dy)


def layernorm_forward(x: Array, g: Array, b: Array):
    """LN(x) = g (x - mean) / std + b over the last axis; x (..., C), g and b (C,). eps is 1e-5."""
    C = x.shape[-1]
    centred = x - row_sum(x) / C
    rstd = 1 / np.sqrt(row_sum(centred * centred) / C + 1e-5)
    xhat = centred * rstd
    return xhat * g + b, (xhat, rstd, g)


def layernorm_backward(dy: Array, cache):
    """dy (..., C) -> dx (..., C), dg (C,), db (C,)."""
    xhat, rstd, g = cache
    C, dxhat = dy.shape[-1], dy * g
    # mean and std depend on x too: the parts of dxhat along 1 and along xhat only move them
    dx = rstd * (dxhat - row_sum(dxhat) / C - xhat * (row_sum(dxhat * xhat) / C))
    return dx, column_sum(dy * xhat), column_sum(dy)


def relu_forward(x: Array):
    """max(x, 0), any shape."""
    y = np.maximum(x, 0)
    return y, y


def relu_backward(dy: Array, cache):
    """dy -> dx: passes where x was positive; 0 at x = 0."""
    return dy * (cache > 0)


def softmax_forward(s: Array):
    """p = exp(s) / sum(exp(s)) over the last axis; s may hold -inf, but not a whole row of it."""
    e = np.exp(s - row_max(s))
    p = e / row_sum(e)
    return p, p


def softmax_backward(dp: Array, cache):
    """dp (..., K) -> ds (..., K): the rows of p sum to 1, so a constant added to dp is lost."""
    p = cache
    return p * (dp - row_sum(dp * p))


def split_heads(x: Array, heads: int) -> Array:
    """(B, N, H·D) -> (B, H, N, D), a view."""
    B, N, _ = x.shape
    return x.reshape(B, N, heads, -1).transpose(0, 2, 1, 3)


def merge_heads(x: Array) -> Array:
    """(B, H, N, D) -> (B, N, H·D)."""
    B, H, N, D = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, N, H * D)


def attention_forward(
    x: Array, context: Array, wq: Array, wkv: Array, wo: Array, heads: int, mask: Array | None
):
    """MH(x, context) = [softmax(q kᵀ / √D) v of every head] wo: rows of x read rows of context.

    x (B, N, C), context (B, K, C), mask (N, K) of 0 and -inf or None -> (B, N, C).
    No biases (Attention Is All You Need, 3.2). wkv makes the keys first, then the values.
    """
    q, c_q = linear_forward(x, wq)
    kv, c_kv = linear_forward(context, wkv)
    q = split_heads(q, heads) * (wq.shape[1] // heads) ** -0.5
    kv = split_heads(kv, 2 * heads)
    k, v = kv[:, :heads], kv[:, heads:]
    s = q @ k.swapaxes(2, 3)
    p, _ = softmax_forward(s if mask is None else s + mask)
    out, c_o = linear_forward(merge_heads(p @ v), wo)
    return out, (c_q, c_kv, c_o, q, k, v, p)


def attention_backward(dout: Array, cache):
    """dout (B, N, C) -> dx (B, N, C), dcontext (B, K, C), dwq, dwkv, dwo."""
    c_q, c_kv, c_o, q, k, v, p = cache
    heads, D = q.shape[1], q.shape[3]
    do, dwo, _ = linear_backward(dout, c_o)
    do = split_heads(do, heads)
    ds = softmax_backward(do @ v.swapaxes(2, 3), p)  # o = p @ v
    dv = p.swapaxes(2, 3) @ do
    dq = ds @ k * D**-0.5  # s = q @ kᵀ, in which q already carries 1/√D
    dk = ds.swapaxes(2, 3) @ q
    dkv = merge_heads(np.concatenate((dk, dv), axis=1))
    dx, dwq, _ = linear_backward(merge_heads(dq), c_q)
    dcontext, dwkv, _ = linear_backward(dkv, c_kv)
    return dx, dcontext, dwq, dwkv, dwo


# ---------------------------------------------------------------- one update serves every variant


def update_forward(x: Array, context: Array, p: Params, heads: int, mask: Array | None = None):
    """U(x, context): A = LN(x + MH(x, context)), H = LN(A + FF(A)).

    FF(A) = relu(A w1 + b1) w2 + b2. Post-LN, as in the paper.
    x (B, N, C), context (B, K, C), mask (N, K) or None -> (B, N, C).
    """
    mh, c_mh = attention_forward(x, context, p["wq"], p["wkv"], p["wo"], heads, mask)
    a, c_ln1 = layernorm_forward(x + mh, p["ln1_g"], p["ln1_b"])
    u, c_w1 = linear_forward(a, p["w1"], p["b1"])
    r, c_relu = relu_forward(u)
    ff, c_w2 = linear_forward(r, p["w2"], p["b2"])
    h, c_ln2 = layernorm_forward(a + ff, p["ln2_g"], p["ln2_b"])
    return h, (c_mh, c_ln1, c_w1, c_relu, c_w2, c_ln2)


def update_backward(dh: Array, cache, dp: Params):
    """dh (B, N, C) -> dx (B, N, C), dcontext (B, K, C); the parameters' gradients add into dp."""
    c_mh, c_ln1, c_w1, c_relu, c_w2, c_ln2 = cache
    dff, dln2_g, dln2_b = layernorm_backward(dh, c_ln2)
    dr, dw2, db2 = linear_backward(dff, c_w2)
    du = relu_backward(dr, c_relu)
    da, dw1, db1 = linear_backward(du, c_w1)
    dmh, dln1_g, dln1_b = layernorm_backward(da + dff, c_ln1)  # a goes through FF and past it
    dx, dcontext, dwq, dwkv, dwo = attention_backward(dmh, c_mh)
    add_into(dp, wq=dwq, wkv=dwkv, wo=dwo, ln1_g=dln1_g, ln1_b=dln1_b)
    add_into(dp, w1=dw1, b1=db1, w2=dw2, b2=db2, ln2_g=dln2_g, ln2_b=dln2_b)
    return dx + dmh, dcontext  # x goes through MH and past it


def add_into(dp: Params, **grads: Array) -> None:
    """dp[name] += gradient: a parameter that is used twice gets the sum."""
    for name, grad in grads.items():
        dp[name] += grad


# ---------------------------------------------------------------- one layer: three wirings of it
#
# A wiring takes mem (B, M, C) and seq (B, T, C) to the next mem and seq. `read` None computes every
# row; an array of positions (R,) computes those of seq, and the memory only where they need it:
# memory that nothing reads comes back empty, (B, 0, C). The cache lists each update with its
# target rows in [mem; seq].


def shared_forward(mem: Array, seq: Array, p, heads: int, mask: Array | None, read: Array | None):
    """Transformer, MemTransformer, masked: x = [mem; seq], y = U(x, x)."""
    x, M = np.concatenate((mem, seq), axis=1), mem.shape[1]
    rows, cut = (slice(None), M) if read is None else (M + read, 0)
    y, c_all = update_forward(x[:, rows], x, p["all"], heads, mask_rows(mask, rows))
    return (y[:, :cut], y[:, cut:]), (M, (rows, c_all))


def shared_backward(dmem: Array, dseq: Array, cache, dp):
    """Gradients of the new mem and seq -> gradients of the old: dx + dcontext, cut at M."""
    M, (rows, c_all) = cache
    dy = np.concatenate((dmem, dseq), axis=1)
    dx, dcontext = update_backward(dy, c_all, dp["all"])
    dcontext[:, rows] += dx  # x asks, and x is what is asked
    return dcontext[:, :M], dcontext[:, M:]


def memctrl_forward(mem: Array, seq: Array, p, heads: int, mask: Array | None, read: Array | None):
    """MemCtrl: mem' = U_mem(mem, [mem; seq]), seq' = U_seq(seq, [mem; seq]), both from the old.

    Two sets of parameters (the paper); where LN and the skip stand in them is ours.
    """
    x, M = np.concatenate((mem, seq), axis=1), mem.shape[1]
    rows = slice(M, None) if read is None else M + read
    seq, c_seq = update_forward(x[:, rows], x, p["seq"], heads, mask_rows(mask, rows))
    if read is not None:
        return (mem[:, :0], seq), (M, (rows, c_seq))
    mem, c_mem = update_forward(mem, x, p["mem"], heads)
    return (mem, seq), (M, (rows, c_seq), (slice(M), c_mem))


def memctrl_backward(dmem: Array, dseq: Array, cache, dp):
    """Gradients of the new mem and seq -> gradients of the old: both dcontext add up, cut at M."""
    M, (rows, c_seq), *memory = cache
    dx, dcontext = update_backward(dseq, c_seq, dp["seq"])
    dcontext[:, rows] += dx
    for mem_rows, c_mem in memory:
        dx, dcontext_mem = update_backward(dmem, c_mem, dp["mem"])
        dcontext += dcontext_mem
        dcontext[:, mem_rows] += dx
    return dcontext[:, :M], dcontext[:, M:]


def membottleneck_forward(mem: Array, seq: Array, p, heads: int, mask: None, read: Array | None):
    """MemBottleneck: mem' = U_mem(mem, [mem; seq]), then seq' = U_seq(seq, mem').

    Who reads whom, and in which order (the paper); where LN and the skip stand is ours.
    """
    x, M = np.concatenate((mem, seq), axis=1), mem.shape[1]
    mem, c_mem = update_forward(mem, x, p["mem"], heads)
    rows = slice(M, None) if read is None else M + read
    seq, c_seq = update_forward(x[:, rows], mem, p["seq"], heads)
    return (mem, seq), (M, (rows, c_seq), (slice(M), c_mem))


def membottleneck_backward(dmem: Array, dseq: Array, cache, dp):
    """Gradients of the new mem and seq -> gradients of the old: the sequence first, then memory."""
    M, (rows, c_seq), (mem_rows, c_mem) = cache
    dx_seq, dmem_read = update_backward(dseq, c_seq, dp["seq"])
    dx_mem, dcontext = update_backward(dmem + dmem_read, c_mem, dp["mem"])
    dcontext[:, mem_rows] += dx_mem
    dcontext[:, rows] += dx_seq
    return dcontext[:, :M], dcontext[:, M:]


WIRINGS = {
    "transformer": (shared_forward, shared_backward),
    "memtransformer": (shared_forward, shared_backward),
    "masked": (shared_forward, shared_backward),
    "memctrl": (memctrl_forward, memctrl_backward),
    "membottleneck": (membottleneck_forward, membottleneck_backward),
}


def build_mask(config: Config, T: int, dtype) -> Array | None:
    """(M+T, M+T): 0 where a target row may see a source column, -inf where not; None: all may.

    Both limits are on sequence rows that look at sequence rows: `window` allows a radius, the
    bottleneck mask nothing at all, a radius of -1. Memory sees all and is seen by all. Ours.
    """
    radius = -1 if config.variant == "masked" else config.window
    if radius is None:
        return None
    M, position = config.memory, np.arange(T)
    mask = np.zeros((M + T, M + T), dtype)
    mask[M:, M:][np.abs(position[:, None] - position) > radius] = -np.inf
    return mask


def mask_rows(mask: Array | None, rows) -> Array | None:
    """The rows of a mask that are computed."""
    return None if mask is None else mask[rows]


# ---------------------------------------------------------------- the model and its loss


def sinusoids(T: int, C: int, dtype) -> Array:
    """(T, C) fixed positions: sin and cos by turns (Attention Is All You Need, 3.5)."""
    angle = np.arange(T)[:, None] / 10000 ** (np.arange(0, C, 2) / C)
    return np.stack((np.sin(angle), np.cos(angle)), axis=2).reshape(T, C).astype(dtype)


def embedding_forward(tokens: Array, embed: Array, memory: Array):
    """X^seq = embed[tokens] + positions; X^mem is `memory`, once per example, no positions.

    tokens (B, T) integers, embed (S+1, C), memory (M, C) -> (mem (B, M, C), seq (B, T, C)).
    """
    (B, T), (M, C) = tokens.shape, memory.shape
    seq = embed[tokens] + sinusoids(T, C, embed.dtype)
    return (np.broadcast_to(memory, (B, M, C)), seq), (tokens, len(embed))


def embedding_backward(dmem: Array, dseq: Array, cache):
    """dmem (B, M, C), dseq (B, T, C) -> dembed (S+1, C), dmemory (M, C)."""
    tokens, vocabulary = cache
    # a token that occurs often gets the sum of its gradients: a one-hot product does that
    dembed = rows_of(one_hot(tokens, vocabulary, dseq.dtype)).T @ rows_of(dseq)
    return dembed, dmem.sum(axis=0)


def cross_entropy_forward(logits: Array, targets: Array):
    """loss = mean of -log softmax(logits)[target], in nats.

    logits (..., S), targets (...) integers in 0 … S-1 -> a scalar. Raises ValueError otherwise.
    """
    targets = check_ids("targets", targets, logits.shape[-1])
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets have shape {targets.shape}: must be {logits.shape[:-1]}")
    z = logits - row_max(logits)
    logp = z - np.log(row_sum(np.exp(z)))
    chosen = one_hot(targets, logits.shape[-1], logits.dtype)
    return -(chosen * logp).sum() / targets.size, (logp, chosen)


def cross_entropy_backward(dloss: float, cache):
    """dloss, a number -> dlogits (..., S): softmax minus one-hot, over the number of targets."""
    logp, chosen = cache
    # a Python number: a NumPy float64 scalar would widen float32
    return (np.exp(logp) - chosen) * (float(dloss) * logp.shape[-1] / logp.size)


def model_forward(params: Params, tokens: Array, config: Config, read=None):
    """Tokens (B, T), integers in 0 … symbols -> logits (B, T, S), or (B, R, S) with `read`.

    `read`: a slice or integer array (R,) of the sequence positions whose logits are wanted. Then
    the last layer computes only those rows, and not the memory's last update unless they read it.
    Raises ValueError for tokens, `read` or parameters that do not fit the configuration.
    """
    tokens, read = check_inputs(params, tokens, config, read)
    (mem, seq), c_embed = embedding_forward(tokens, params["embed"], params["memory"])
    mask = build_mask(config, tokens.shape[1], seq.dtype)
    forward, _ = WIRINGS[config.variant]
    c_layers = []
    for l in range(config.layers):
        rows = read if l == config.layers - 1 else None
        p = role_params(params, config, l)
        (mem, seq), c_layer = forward(mem, seq, p, config.heads, mask, rows)
        c_layers.append(c_layer)
    logits, c_out = linear_forward(seq, params["out_w"], params["out_b"])
    return logits, (config, c_embed, c_layers, c_out, mem)


def model_backward(dlogits: Array, cache) -> Params:
    """dlogits, shaped like the logits -> name -> gradient, views of one vector like the parameters.

    Neither argument is changed. Raises ValueError for dlogits of another shape.
    """
    config, c_embed, c_layers, c_out, mem = cache
    shape = (*c_out[0].shape[:-1], config.symbols)
    if dlogits.shape != shape:
        raise ValueError(f"dlogits have shape {dlogits.shape}: must be {shape}")
    grads = zero_params(config, mem.dtype)
    dseq, dout_w, dout_b = linear_backward(dlogits, c_out)
    dmem = np.zeros_like(mem)  # nothing reads the final memory
    _, backward = WIRINGS[config.variant]
    for l in reversed(range(config.layers)):
        dmem, dseq = backward(dmem, dseq, c_layers[l], role_params(grads, config, l))
    dembed, dmemory = embedding_backward(dmem, dseq, c_embed)
    add_into(grads, embed=dembed, memory=dmemory, out_w=dout_w, out_b=dout_b)
    return grads


def check_ids(name: str, ids: Array, size: int) -> Array:
    """Ids as an integer array of at least one; raises ValueError unless all are in 0 … size-1."""
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu" or not ids.size:
        raise ValueError(f"{name} are {ids.dtype} of shape {ids.shape}: must be integers, not none")
    if ids.min() < 0 or ids.max() >= size:
        bad = ids[(ids < 0) | (ids >= size)][0]
        raise ValueError(f"{name} hold {bad}: must be from 0 to {size - 1}")
    return ids


def check_inputs(params: Params, tokens: Array, config: Config, read):
    """tokens, read as arrays; raises ValueError for what does not fit."""
    for name, shape in param_shapes(config).items():
        if name not in params or params[name].shape != shape:
            found = f"have shape {params[name].shape}" if name in params else "are missing"
            raise ValueError(f"params {name!r} {found}: must have shape {shape} for this config")
    if len({p.dtype for p in params.values()}) > 1:
        raise ValueError("params have several types: must be all float32 or all float64")
    tokens = check_ids("tokens", tokens, config.symbols + 1)
    if tokens.ndim != 2:
        raise ValueError(f"tokens have shape {tokens.shape}: must be (batch, positions)")
    if read is not None:
        T = tokens.shape[1]
        read = np.arange(T)[read] if isinstance(read, slice) else check_ids("read", read, T)
        if read.ndim != 1 or not read.size or len(set(read.tolist())) < read.size:
            raise ValueError(f"read is {read}: must name at least one position, and none twice")
    return tokens, read


# ---------------------------------------------------------------- looking inside


def attention_maps(cache) -> Array:
    """Cache of model_forward -> (L, B, H, M+T, M+T): rows are targets, columns are sources.

    Memory comes first on both axes, so that the blocks are PROCESS (mem, mem), WRITE (mem, seq),
    READ (seq, mem) and seq to seq. 0 where a variant cannot attend, NaN in rows that `read` left
    out. For membottleneck the READ block is attention to the memory that the layer has updated.
    """
    config, (tokens, _), c_layers, _, _ = cache
    B, T = tokens.shape
    size = config.memory + T
    maps = np.full((config.layers, B, config.heads, size, size), np.nan, cache[-1].dtype)
    for out, (_, *updates) in zip(maps, c_layers, strict=True):
        for rows, (c_attention, *_) in updates:
            p = c_attention[-1]
            out[:, :, rows] = 0
            out[:, :, rows, : p.shape[-1]] = p
    return maps


def final_memory(cache) -> Array:
    """Cache of model_forward -> the memory after the last layer, (B, M, C).

    Raises ValueError where `read` left it out.
    """
    config, mem = cache[0], cache[-1]
    if mem.shape[1] != config.memory:
        raise ValueError("the final memory was not computed: run model_forward with read=None")
    return mem


# ---------------------------------------------------------------- files


def save(path: str | os.PathLike, params: Params, config: Config) -> None:
    """Write parameters and configuration to one .npz; written beside and renamed when whole.

    Raises ValueError for what `load` would refuse: parameters of another shape or type, NaN.
    """
    arrays = {"config": np.array(json.dumps(asdict(config))), **fill_params(config, params)}
    write_whole(path, lambda file: np.savez(file, **arrays))


def write_whole(path: str | os.PathLike, write: Callable[[BinaryIO], None]) -> None:
    """Keep what `write` writes, in a file beside `path`, renamed when whole: never half a file."""
    beside, content = f"{os.fspath(path)}.part", io.BytesIO()
    write(content)
    try:
        with open(beside, "wb") as file:
            file.write(content.getbuffer())
        os.replace(beside, path)
    except BaseException:
        if os.path.exists(beside):
            os.remove(beside)
        raise


def load(path: str | os.PathLike) -> tuple[Params, Config]:
    """Read what `save` wrote. Nothing in the file is executed.

    Raises FileNotFoundError, or ValueError for a damaged or foreign file.
    """
    arrays = read_npz(path)
    try:
        config = Config(**json.loads(str(arrays.pop("config"))))
        if config.layers > len(arrays):
            raise ValueError("it has fewer parameters than layers")
        return fill_params(config, arrays), config
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)!r} is not a memt model: {reason(error)}") from None


def fill_params(config: Config, arrays: Mapping[str, Array]) -> Params:
    """Arrays, checked, as parameters that share one vector. Raises ValueError."""
    if param_shapes(config).keys() != arrays.keys():
        raise ValueError("the parameters are not those of the configuration")
    dtype = arrays["embed"].dtype
    for name, shape in param_shapes(config).items():
        if arrays[name].shape != shape or arrays[name].dtype != dtype:
            raise ValueError(f"{name} must have shape {shape} and type {dtype}")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} holds NaN or infinity")
    params = zero_params(config, dtype)  # only now: a damaged size may claim any memory
    for name, p in params.items():
        p[...] = arrays[name]
    return params


def read_npz(path: str | os.PathLike) -> dict[str, Array]:
    """All arrays of an .npz, without pickle. Raises FileNotFoundError, or ValueError if damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if sum(part.file_size for part in file.zip.infolist()) > os.path.getsize(path):
                raise ValueError("it claims to hold more than it does")  # we never compress
            arrays = dict(file)
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a part of it is not an array")
        return arrays
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged bytes make zip, NumPy and its parser raise anything
        raise ValueError(f"{os.fspath(path)!r} is not a readable .npz: {reason(error)}") from None


def reason(error: Exception) -> str:
    """What an error says, in one line of bounded length."""
    return " ".join(str(error).split())[:200]
