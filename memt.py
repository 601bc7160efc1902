"""memt: the Memory Transformer (Burtsev et al., arXiv 2006.11527) in NumPy, gradients by hand.

Each building block is a pair: `x_forward(...) -> out, cache` computes, and
`x_backward(dout, cache)` propagates the gradient of the loss with respect to `out` back to the
inputs, line by line in reverse. A gradient is `d` + the name of what it belongs to. Read downwards:
the pieces, one update, three ways to wire a layer from updates, the model; then configuration,
parameters and checks.

    B  batch    T  sequence positions    M  memory tokens      R  positions whose logits are wanted
    C  width    H  heads, D = C/H wide   F  hidden             L  layers    S  symbols   O  outputs
    N  rows that attend (targets, queries)    K  rows attended to (sources, keys and values)

"Memory" means the M trainable [mem] vectors in front of the sequence and nothing else. All arrays
have the float type of the parameters: float32 for training, float64 for gradient checks.
"""

import contextlib
import functools
import io
import json
import math
import os
from collections import namedtuple
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np


# ---------------------------------------------------------------- pieces
def rows_of(x):
    """(..., C) -> (rows, C): one large matrix product is faster than many small ones."""
    return x.reshape(-1, x.shape[-1])


def row_sum(x):
    """Sum over the last axis, kept: (..., C) -> (..., 1). A product with ones is the fast way."""
    return (rows_of(x) @ np.ones((x.shape[-1], 1), x.dtype)).reshape(*x.shape[:-1], 1)


def column_sum(x):
    """Sum over every axis but the last: (..., C) -> (C,)."""
    return np.ones(x.size // x.shape[-1], x.dtype) @ rows_of(x)


def linear_forward(x, w, b=None):
    """y = x w + b: x (..., I), w (I, O), b (O,) or None -> (..., O)."""
    y = (rows_of(x) @ w).reshape(*x.shape[:-1], w.shape[1])
    return (y if b is None else y + b), (x, w, b)


def linear_backward(dy, cache):
    """dy (..., O) -> dx (..., I), dw (I, O), db (O,), which is None if the forward had no b."""
    x, w, b = cache
    dx = (rows_of(dy) @ w.T).reshape(x.shape)
    dw = rows_of(x).T @ rows_of(dy)
    return dx, dw, None if b is None else column_sum(dy)


def layernorm_forward(x, g, b):
    """LN(x) = g (x - mean) / std + b over the last axis; x (..., C), g and b (C,). eps is 1e-5."""
    C = x.shape[-1]
    centred = x - row_sum(x) / C
    rstd = 1 / np.sqrt(row_sum(centred * centred) / C + 1e-5)
    xhat = centred * rstd
    return xhat * g + b, (xhat, rstd, g)


def layernorm_backward(dy, cache):
    """dy (..., C) -> dx (..., C), dg (C,), db (C,)."""
    xhat, rstd, g = cache
    C, dxhat = dy.shape[-1], dy * g
    # mean and std depend on x too: the components of dxhat along the ones and along xhat drop out
    dx = rstd * (dxhat - row_sum(dxhat) / C - xhat * (row_sum(dxhat * xhat) / C))
    return dx, column_sum(dy * xhat), column_sum(dy)


def relu_forward(x):
    """max(x, 0), any shape."""
    y = np.maximum(x, 0)
    return y, y


def relu_backward(dy, y):
    """dy -> dx: passes where x, and so y, was positive; 0 at x = 0."""
    return dy * (y > 0)


def row_max(x):
    """Largest of the last axis, kept: (..., C) -> (..., 1)."""
    if x.shape[-1] > 64:
        return x.max(axis=-1, keepdims=True)
    # for short rows, a maximum down the columns of a transposed copy is three times as fast
    return np.copy(rows_of(x).T, order="C").max(axis=0).reshape(*x.shape[:-1], 1)


def softmax_forward(s):
    """p = exp(s) / sum(exp(s)) over the last axis; s may hold -inf, but not in a whole row."""
    e = np.exp(s - row_max(s))
    p = e / row_sum(e)
    return p, p


def softmax_backward(dp, p):
    """dp (..., K) -> ds (..., K). Rows of p sum to 1, so a constant added to dp has no effect."""
    return p * (dp - row_sum(dp * p))


def split_heads(x, heads):
    """(B, N, H·D) -> (B, H, N, D), a view."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def merge_heads(x):
    """(B, H, N, D) -> (B, N, H·D)."""
    return x.transpose(0, 2, 1, 3).reshape(len(x), x.shape[2], -1)


AttentionCache = namedtuple("AttentionCache", "c_q c_kv q k v p c_o")


def attention_forward(x, context, wq, wkv, wo, heads, mask):
    """MH(x, context) = [softmax(q kᵀ / √D) v of every head] wo; rows of x attend to context.

    x (B, N, C), context (B, K, C), mask (N, K) or (B, 1, N, K) of 0 and -inf, or None -> (B, N, C).
    No biases (Attention Is All You Need, 3.2). wkv holds the keys' columns, then the values'.
    """
    q, c_q = linear_forward(x, wq)
    kv, c_kv = linear_forward(context, wkv)
    q = split_heads(q, heads) * (wq.shape[1] // heads) ** -0.5
    kv = split_heads(kv, 2 * heads)
    k, v = kv[:, :heads], kv[:, heads:]
    s = q @ k.swapaxes(2, 3)
    p, _ = softmax_forward(s if mask is None else s + mask)
    out, c_o = linear_forward(merge_heads(p @ v), wo)
    return out, AttentionCache(c_q, c_kv, q, k, v, p, c_o)


def attention_backward(dout, cache):
    """dout (B, N, C) -> dx (B, N, C), dcontext (B, K, C), dwq, dwkv, dwo."""
    c_q, c_kv, q, k, v, p, c_o = cache
    _, heads, _, D = q.shape
    do, dwo, _ = linear_backward(dout, c_o)
    do = split_heads(do, heads)
    dv = p.swapaxes(2, 3) @ do  # o = p @ v
    ds = softmax_backward(do @ v.swapaxes(2, 3), p)  # its first argument is dp; a mask is constant
    dq = ds @ k * D**-0.5  # s = q @ kᵀ, in which q already carries 1/√D
    dk = ds.swapaxes(2, 3) @ q
    dkv = merge_heads(np.concatenate((dk, dv), axis=1))
    dcontext, dwkv, _ = linear_backward(dkv, c_kv)
    dx, dwq, _ = linear_backward(merge_heads(dq), c_q)
    return dx, dcontext, dwq, dwkv, dwo


# ---------------------------------------------------------------- one update serves every variant

UpdateCache = namedtuple("UpdateCache", "attention ln1 w1 relu w2 ln2")


def update_forward(x, context, params, heads, mask=None):
    """U(x, context): a = LN(x + MH(x, context)), h = LN(a + FF(a)); post-LN, as in the paper.

    FF(a) = relu(a w1 + b1) w2 + b2. x (B, N, C), context (B, K, C) -> (B, N, C); params: short
    name -> array; mask as in attention_forward.
    """
    mh, c_mh = attention_forward(x, context, params["wq"], params["wkv"], params["wo"], heads, mask)
    a, c_ln1 = layernorm_forward(x + mh, params["ln1_g"], params["ln1_b"])
    u, c_w1 = linear_forward(a, params["w1"], params["b1"])
    r, c_relu = relu_forward(u)
    ff, c_w2 = linear_forward(r, params["w2"], params["b2"])
    h, c_ln2 = layernorm_forward(a + ff, params["ln2_g"], params["ln2_b"])
    return h, UpdateCache(c_mh, c_ln1, c_w1, c_relu, c_w2, c_ln2)


def update_backward(dh, cache, dparams):
    """dh (B, N, C) -> dx (B, N, C), dcontext (B, K, C); adds the gradients of params to dparams."""
    c_mh, c_ln1, c_w1, c_relu, c_w2, c_ln2 = cache
    dff, dln2_g, dln2_b = layernorm_backward(dh, c_ln2)
    dr, dw2, db2 = linear_backward(dff, c_w2)
    du = relu_backward(dr, c_relu)
    da, dw1, db1 = linear_backward(du, c_w1)
    dmh, dln1_g, dln1_b = layernorm_backward(da + dff, c_ln1)  # `a` goes through FF and past it
    dx, dcontext, dwq, dwkv, dwo = attention_backward(dmh, c_mh)
    add_into(dparams, wq=dwq, wkv=dwkv, wo=dwo, ln1_g=dln1_g, ln1_b=dln1_b)
    add_into(dparams, w1=dw1, b1=db1, w2=dw2, b2=db2, ln2_g=dln2_g, ln2_b=dln2_b)
    return dx + dmh, dcontext  # `x` goes through MH and past it


def add_into(dparams, **grads):
    """dparams[name] += gradient: a parameter that is used twice gets the sum."""
    for name, grad in grads.items():
        dparams[name] += grad


# ---------------------------------------------------------------- a layer: three wirings of updates
#
# mem (B, M, C), seq (B, T, C) -> the next mem and seq; params: role -> parameters of its update.
# With `at` None, every row is computed; with a slice or positions (R,), only these rows of seq, and
# memory only if they read the new one (else it is returned empty, (B, 0, C)). The cache is a pair:
# M, and role -> (target rows in [mem; seq], cache of the update). Who attends to whom, and in which
# order, is the paper's; the placement of LN and residual connections in memctrl and membottleneck
# is ours.


def shared_forward(mem, seq, params, heads, mask, at):
    """Transformer, MemTransformer, masked: both = [mem; seq], both' = U(both, both)."""
    both, M = np.concatenate((mem, seq), axis=1), mem.shape[1]
    rows = slice(None) if at is None else rows_at(at, M)
    cut = M if at is None else 0  # how many of these rows are memory
    y, c_all = update_forward(both[:, rows], both, params["all"], heads, part(mask, rows))
    return (y[:, :cut], y[:, cut:]), (M, {"all": (rows, c_all)})


def shared_backward(dmem, dseq, cache, dparams):
    """Gradients of the new mem and seq -> gradients of the old ones."""
    M, updates = cache
    rows, c_all = updates["all"]
    dy = np.concatenate((dmem, dseq), axis=1)
    dx, dboth = update_backward(dy, c_all, dparams["all"])
    dboth[:, rows] += dx  # both supplies the queries and also the keys and values
    return dboth[:, :M], dboth[:, M:]


def memctrl_forward(mem, seq, params, heads, mask, at):
    """MemCtrl: mem' = U_mem(mem, [mem; seq]), seq' = U_seq(seq, [mem; seq]), from the old ones."""
    both, M, updates = np.concatenate((mem, seq), axis=1), mem.shape[1], {}
    new_mem = mem[:, :0]
    if at is None:
        new_mem, c_mem = update_forward(mem, both, params["mem"], heads, part(mask, slice(M)))
        updates["mem"] = slice(M), c_mem
    rows = rows_at(at, M)
    new_seq, c_seq = update_forward(both[:, rows], both, params["seq"], heads, part(mask, rows))
    updates["seq"] = rows, c_seq
    return (new_mem, new_seq), (M, updates)


def memctrl_backward(dmem, dseq, cache, dparams):
    """Gradients of the new mem and seq -> of the old ones; those of both contexts add up."""
    M, updates = cache
    rows, c_seq = updates["seq"]
    dx, dboth = update_backward(dseq, c_seq, dparams["seq"])
    dboth[:, rows] += dx
    if "mem" in updates:
        dx, dcontext = update_backward(dmem, updates["mem"][1], dparams["mem"])
        dboth += dcontext
        dboth[:, :M] += dx
    return dboth[:, :M], dboth[:, M:]


def membottleneck_forward(mem, seq, params, heads, mask, at):
    """MemBottleneck: mem' = U_mem(mem, [mem; seq]), then seq' = U_seq(seq, mem')."""
    both, M = np.concatenate((mem, seq), axis=1), mem.shape[1]
    new_mem, c_mem = update_forward(mem, both, params["mem"], heads, part(mask, slice(M)))
    rows = rows_at(at, M)
    to_mem = part(mask, rows, slice(M))
    new_seq, c_seq = update_forward(both[:, rows], new_mem, params["seq"], heads, to_mem)
    return (new_mem, new_seq), (M, {"mem": (slice(M), c_mem), "seq": (rows, c_seq)})


def membottleneck_backward(dmem, dseq, cache, dparams):
    """Gradients of the new mem and seq -> gradients of the old ones: seq first, then memory."""
    M, updates = cache
    rows, c_seq = updates["seq"]
    dx_seq, dmem_read = update_backward(dseq, c_seq, dparams["seq"])
    dx_mem, dboth = update_backward(dmem + dmem_read, updates["mem"][1], dparams["mem"])
    dboth[:, :M] += dx_mem
    dboth[:, rows] += dx_seq
    return dboth[:, :M], dboth[:, M:]


Wiring = namedtuple("Wiring", "forward backward roles")  # roles: names of a layer's parameter sets
SHARED = Wiring(shared_forward, shared_backward, ("all",))
WIRINGS = {
    "transformer": SHARED,
    "memtransformer": SHARED,
    "masked": SHARED,
    "memctrl": Wiring(memctrl_forward, memctrl_backward, ("mem", "seq")),
    "membottleneck": Wiring(membottleneck_forward, membottleneck_backward, ("mem", "seq")),
}
VARIANTS = tuple(WIRINGS)
BOTTLENECKS = ("masked", "membottleneck")  # sequence rows attend to memory only


def rows_at(at, M):
    """The rows in [mem; seq] of sequence positions: all of them (None), a slice or an array."""
    if isinstance(at, slice):
        return slice(M + at.start, M + at.stop)
    return slice(M, None) if at is None else M + at


def part(mask, rows, columns=slice(None)):
    """The rows and columns of a mask that an update needs."""
    return None if mask is None else mask[..., rows, columns]


def build_mask(config, T, dtype, mask=None):
    """(M+T, M+T) of dtype: 0 where a target row may attend to a source column, else -inf; ours.

    The bottleneck (radius -1) and `window` limit only how sequence rows attend to sequence rows;
    booleans `mask` (B, M+T, M+T) limit all attention -> (B, 1, M+T, M+T). None if all is allowed.
    """
    radius = -1 if config.variant in BOTTLENECKS else config.window
    if mask is None and (radius is None or config.variant == "membottleneck"):
        return None
    M, position = config.memory, np.arange(T)
    allowed = np.ones((M + T, M + T), bool) if mask is None else mask[:, None].copy()
    allowed[..., M:, M:] &= radius is None or np.abs(position[:, None] - position) <= radius
    must(allowed.any(axis=-1).all(), "mask leaves a row with nothing to attend to")
    return np.where(allowed, 0, -np.inf).astype(dtype)


# ---------------------------------------------------------------- the model and its loss
@functools.lru_cache(maxsize=64)
def sinusoids(T, C, dtype):
    """(T, C) fixed positions, sin and cos interleaved (Attention Is All You Need, 3.5)."""
    angle = np.arange(T)[:, None] / 10000 ** (np.arange(0, C, 2) / C)
    table = np.stack((np.sin(angle), np.cos(angle)), axis=2).reshape(T, C).astype(dtype)
    table.flags.writeable = False  # it is shared
    return table


def embedding_forward(tokens, embed, memory, positions=True):
    """seq = embed[tokens] + sinusoids (if `positions`); mem = memory, once per example.

    tokens (B, T) integers, embed (S+1, C), memory (M, C) -> (mem (B, M, C), seq (B, T, C)).
    """
    (B, T), (M, C) = tokens.shape, memory.shape
    seq = embed[tokens] + (sinusoids(T, C, embed.dtype) if positions else 0)
    return (np.broadcast_to(memory, (B, M, C)), seq), (tokens, len(embed))


def embedding_backward(dmem, dseq, cache):
    """dmem (B, M, C), dseq (B, T, C) -> dembed (S+1, C), dmemory (M, C)."""
    tokens, vocabulary = cache
    # a token that occurs often gets the sum of its gradients: a product with one-hot rows does that
    one_hot = tokens.reshape(-1, 1) == np.arange(vocabulary)
    dembed = one_hot.astype(dseq.dtype).T @ rows_of(dseq)
    return dembed, dmem.sum(axis=0)


def cross_entropy_forward(logits, targets):
    """Mean of -log softmax(logits)[target], in nats: logits (..., O), targets (...) -> a scalar."""
    *shape, O = logits.shape
    targets = check_ids("targets", targets, O, len(shape))
    must(targets.shape == (*shape,), f"targets have shape {targets.shape}: must be {(*shape,)}")
    z = logits - row_max(logits)
    logp = z - np.log(row_sum(np.exp(z)))
    chosen = targets[..., None] == np.arange(O)  # one-hot
    return -np.where(chosen, logp, 0).sum() / targets.size, (logp, chosen, targets.size)


def cross_entropy_backward(dloss, cache):
    """dloss, a number -> dlogits (..., O): (softmax - one-hot) · dloss / number of targets."""
    logp, chosen, count = cache
    return (np.exp(logp) - chosen) * (float(dloss) / count)  # np.float64 would promote float32


ModelCache = namedtuple("ModelCache", "config tokens c_embedding layers memory c_out shape")


def model_forward(params, tokens, config, at=None, mask=None):
    """Tokens (B, T), integers in 0 … S -> logits (B, T, O), or (B, R, O) with `at`; a ModelCache.

    `at`: slice or positions (R,) whose logits are wanted; the last layer computes only their rows,
    and updates memory only if they read the new memory. `mask`: booleans, broadcastable to
    (B, M+T, M+T), memory first, True where a target row may attend to a source column. It limits
    direct attention only: what memory attends to still reaches, through memory, every row that
    reads memory. Raises ValueError for arguments that do not fit the configuration.
    """
    check_params(config, params)
    tokens, at, mask = check_inputs(config, tokens, at, mask)
    embed, memory = params["embed"], params["memory"]
    (mem, seq), c_embedding = embedding_forward(tokens, embed, memory, config.positions)
    limits = build_mask(config, tokens.shape[1], seq.dtype, mask)
    forward = WIRINGS[config.variant].forward
    layers = [None] * config.layers
    for l in range(config.layers):
        wanted = at if l == config.layers - 1 else None
        own = role_params(params, config, l)
        (mem, seq), layers[l] = forward(mem, seq, own, config.heads, limits, wanted)
    logits, c_out = linear_forward(seq, params["out_w"], params["out_b"])
    return logits, ModelCache(config, tokens, c_embedding, layers, mem, c_out, logits.shape)


def model_backward(dlogits, cache):
    """dlogits, shaped like the logits -> name -> gradient, laid out like the parameters."""
    config, _, c_embedding, layers, mem, c_out, shape = cache
    must(dlogits.shape == shape, f"dlogits have shape {dlogits.shape}: must be {shape}")
    grads = zero_params(config, mem.dtype)
    dseq, dout_w, dout_b = linear_backward(dlogits, c_out)
    dmem = np.zeros_like(mem)  # nothing reads the final memory
    backward = WIRINGS[config.variant].backward
    for l in reversed(range(config.layers)):  # layers that share a controller add to the same views
        dmem, dseq = backward(dmem, dseq, layers[l], role_params(grads, config, l))
    dembed, dmemory = embedding_backward(dmem, dseq, c_embedding)
    add_into(grads, embed=dembed, memory=dmemory, out_w=dout_w, out_b=dout_b)
    return grads


def loss_and_grads(params, tokens, targets, config, at=None, mask=None):
    """-> cross-entropy (nats), name -> gradient; arguments as in model_forward."""
    logits, cache = model_forward(params, tokens, config, at, mask)
    loss, c_loss = cross_entropy_forward(logits, targets)
    return loss, model_backward(cross_entropy_backward(1.0, c_loss), cache)


# ---------------------------------------------------------------- looking inside
def attention_maps(cache):
    """ModelCache -> (L, B, H, M+T, M+T): rows are targets, columns are sources, memory first.

    The blocks are PROCESS (mem, mem), WRITE (mem, seq), READ (seq, mem) and seq to seq. 0 where a
    variant cannot attend, NaN in rows that `at` left out. READ of membottleneck is attention to
    the memory that the same layer has updated.
    """
    (B, T), config = cache.tokens.shape, cache.config
    size = config.memory + T
    maps = np.full((config.layers, B, config.heads, size, size), np.nan, cache.memory.dtype)
    for out, (_, updates) in zip(maps, cache.layers, strict=True):
        for rows, c_update in updates.values():
            p = c_update.attention.p
            out[:, :, rows] = 0
            out[:, :, rows, : p.shape[-1]] = p
    return maps


def memory_states(cache):
    """ModelCache -> the memory before the first layer and after each layer, (L+1, B, M, C)."""
    M = cache.config.memory
    computed = cache.memory.shape[1] == M
    must(computed, "the final memory was not computed: run model_forward with at=None")
    updates = (next(iter(layer.values())) for _, layer in cache.layers)  # context: [mem; seq]
    contexts = (c_update.attention.c_kv[0] for _, c_update in updates)
    return np.stack([*(context[:, :M] for context in contexts), cache.memory])


# ---------------------------------------------------------------- configuration and parameters
@dataclass(frozen=True)
class Config:
    """The shape of a model. Token ids are 0 … symbols-1, and one blank, `symbols`.

    Raises TypeError or ValueError, naming the field, its value and what would be right.
    """

    symbols: int = 10
    width: int = 32
    heads: int = 4
    hidden: int = 128
    layers: int = 2
    memory: int = 10
    variant: str = "membottleneck"
    share_controller: bool = False  # ours: layers share the memory's update; needs role mem
    window: int | None = None  # ours: how far sequence rows attend; not in BOTTLENECKS
    outputs: int | None = None  # size of the output layer; None: as many as symbols
    positions: bool = True  # ours: without, the input is a bag of symbols

    def __post_init__(self):
        v, M, C, H, window = self.variant, self.memory, self.width, self.heads, self.window
        must(v in VARIANTS, f"variant is {v!r}: must be one of {', '.join(VARIANTS)}")
        for name in ("symbols", "width", "heads", "hidden"):
            check_size(name, getattr(self, name), 1)
        check_size("layers", self.layers, 1, 9999)
        check_size("memory", M, 0 if v == "transformer" else 1)
        check_size("window", 0 if window is None else window, 0)
        check_size("outputs", 1 if self.outputs is None else self.outputs, 1)
        must(M == 0 or v != "transformer", f"memory is {M}: must be 0 in a transformer")
        must(C % 2 == 0 and C % H == 0, f"width is {C}: must be even and a multiple of heads ({H})")
        for name in ("share_controller", "positions"):
            value = getattr(self, name)
            must(type(value) is bool, f"{name} is {value!r}: must be True or False")
        fits = not self.share_controller or "mem" in WIRINGS[v].roles
        must(fits, f"share_controller is True: must be False in {v}")
        must(window is None or v not in BOTTLENECKS, f"window is {window}: must be None in {v}")
        count = param_count(self)
        size = f"{count:,} parameters ({count / 2**28:,.0f} GiB in float32)"
        must(count < 2**31, f"{size}: must be fewer than 2**31; reduce memory, width or hidden")


UPDATE_PARAMS = ("wq", "wkv", "wo", "ln1_g", "ln1_b", "w1", "b1", "w2", "b2", "ln2_g", "ln2_b")


@functools.lru_cache(maxsize=64)
def param_shapes(config):
    """Name -> shape of every parameter, in the order in which they are stored."""
    C, F, S, O = config.width, config.hidden, config.symbols, config.outputs or config.symbols
    update = ((C, C), (C, 2 * C), (C, C), (C,), (C,), (C, F), (F,), (F, C), (C,), (C,), (C,))
    shapes = {"embed": (S + 1, C), "memory": (config.memory, C)}
    for l in range(config.layers):
        for prefix in role_names(config, l).values():  # a shared controller comes up more than once
            names = (f"{prefix}.{name}" for name in UPDATE_PARAMS)
            shapes |= zip(names, update, strict=True)
    return MappingProxyType(shapes | {"out_w": (C, O), "out_b": (O,)})


@functools.lru_cache(maxsize=64)
def param_count(config):
    """Number of parameters."""
    return sum(map(math.prod, param_shapes(config).values()))


def role_names(config, layer):
    """Role -> prefix of its parameters in a layer."""
    names = {role: f"layers.{layer}.{role}" for role in WIRINGS[config.variant].roles}
    return names | {"mem": "controller"} if config.share_controller else names


def role_params(params, config, layer):
    """Role -> short name -> array: the parameters or gradients that one layer's wiring takes."""
    names = role_names(config, layer).items()
    return {role: {n: params[f"{prefix}.{n}"] for n in UPDATE_PARAMS} for role, prefix in names}


def zero_params(config, dtype=np.float32):
    """Name -> zeros, float32 or float64 (else ValueError), views into one vector: see `flat`."""
    must(dtype in (np.float32, np.float64), f"dtype is {dtype!r}: must be float32 or float64")
    return views(config, np.zeros(param_count(config), dtype))


def views(config, vector):
    """Split a vector of all parameters (or gradients): name -> view in the parameter's shape."""
    right = (param_count(config),)
    must(vector.shape == right, f"vector has shape {vector.shape}: must be {right}")
    params, start = {}, 0
    for name, shape in param_shapes(config).items():
        end = start + math.prod(shape)
        params[name], start = vector[start:end].reshape(shape), end
    return params


def init_params(config, rng, dtype=np.float32):
    """Random parameters from an np.random.Generator; types and layout as in `zero_params`.

    Ours: weights normal with variance 1/inputs, embedding and memory with variance 1, biases 0,
    gains 1. Memory must be random: rows that start equal stay equal.
    """
    must(hasattr(rng, "standard_normal"), f"rng is {rng!r}: must be an np.random.Generator")
    params = zero_params(config, dtype)
    for name, p in params.items():
        if name.endswith("_g"):
            p[...] = 1
        elif p.ndim == 2:  # draws are float64: both types start from the same model
            fan_in = 1 if name in ("embed", "memory") else len(p)
            p[...] = rng.standard_normal(p.shape) / math.sqrt(fan_in)
    return params


def to_params(config, arrays):
    """Name -> finite array, copied into the layout of `zero_params`. Raises ValueError."""
    check_params(config, arrays)
    params = zero_params(config, arrays["embed"].dtype)  # only now: a damaged size may be huge
    for name, p in params.items():
        p[...] = arrays[name]
        must(np.isfinite(p).all(), f"{name} holds NaN or infinity")
    return params


def flat(params):
    """The one vector of which all parameters (or gradients) are views, in their order.

    Raises ValueError unless each is a view in its place: one may have been replaced or copied.
    """
    vector = getattr(params.get("embed"), "base", None)
    arrays = [p for p in params.values() if p.size]
    places = [p.__array_interface__["data"][0] for p in arrays]
    in_it = vector is not None and all(p.base is vector and p.flags.contiguous for p in arrays)
    whole = in_it and places == sorted(set(places)) and sum(p.size for p in arrays) == vector.size
    whole = whole and vector.ndim == 1 and vector.dtype == arrays[0].dtype
    must(whole, "params are not views of one vector: make them with init_params or load")
    return vector


# ---------------------------------------------------------------- files
def save(path, params, config, **about):
    """Write parameters, configuration and `about` (for JSON: where the model is from) to one .npz.

    Raises ValueError for parameters that load would refuse.
    """
    arrays, texts = to_params(config, params), {"config": asdict(config), "about": about}
    texts = {name: json.dumps(value) for name, value in texts.items()}
    atomic_write(path, lambda file: np.savez(file, **texts, **arrays))


def load(path):
    """Read what `save` wrote -> params, config; raises as `open_npz` does."""
    with open_npz(path, "memt model") as arrays:
        config = Config(**json.loads(str(arrays.pop("config"))))
        arrays.pop("about", None)
        return to_params(config, arrays), config


def atomic_write(path, write):
    """Let `write(file)` fill a temporary file, which replaces `path` only when it is complete."""
    path, content = Path(path).resolve(), io.BytesIO()
    must(not path.exists() or path.is_file(), f"{str(path)!r} is not a regular file")
    write(content)
    beside = path.with_name(f"{path.name}.{os.urandom(4).hex()}.part")
    try:
        with open(beside, "xb") as file:
            file.write(content.getbuffer())
        if path.exists():
            beside.chmod(path.stat().st_mode)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def open_npz(path, kind):
    """All arrays of an .npz by name, without pickle: nothing in the file is executed.

    Raises FileNotFoundError, or ValueError in one line for what is damaged or of another kind.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{str(path)!r} is not a file")
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(member.file_size for member in file.zip.infolist())  # we never compress
            must(size <= os.path.getsize(path), "it declares more data than it contains")
            yield dict(file)
    except Exception as error:  # damaged bytes make zip, NumPy and its parser raise anything
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{str(path)!r} is not a {kind}: {why}") from None


# ---------------------------------------------------------------- checks
def must(condition, message):
    """Raise ValueError unless the condition holds. Messages are made each time: keep them cheap."""
    if not condition:
        raise ValueError(message)


def check_size(name, value, least, most=2**31 - 1):
    """Raise TypeError unless value is an int, ValueError unless it is in least … most."""
    if type(value) is not int:
        raise TypeError(f"{name} is {value!r}: must be an int")
    must(least <= value <= most, f"{name} is {value}: must be from {least} to {most}")


def check_params(config, params):
    """Raise ValueError unless params are those of the configuration, all of one float type."""
    must(isinstance(params, dict), f"params is {type(params).__name__}: must be a dict of arrays")
    found, right = {n: getattr(p, "shape", None) for n, p in params.items()}, param_shapes(config)
    if found != right:
        name = min(dict(found.items() ^ right.items()))
        shape, must_be = found.get(name, "missing"), right.get(name, "absent")
        raise ValueError(f"params {name!r}: shape is {shape}, must be {must_be}")
    types = {p.dtype for p in params.values()}
    if len(types) > 1 or not types <= {np.dtype(np.float32), np.dtype(np.float64)}:
        raise ValueError(f"params are {types}: must be all float32 or all float64")


def check_ids(name, ids, size, ndim):
    """ids as an array of integers in 0 … size-1, at least one."""
    ids = np.array(ids)  # a copy: backward needs it as it is now
    must(ids.size, f"{name} is empty: must hold at least one")
    if ids.dtype.kind not in "iu" or ids.ndim != ndim:
        right = f"must be a {ndim}-D array of integers"
        raise ValueError(f"{name} is {ids.dtype} of shape {ids.shape}: {right}")
    if ids.min() < 0 or ids.max() >= size:
        right = f"must be from 0 to {size - 1}"
        raise ValueError(f"{name} has values from {ids.min()} to {ids.max()}: {right}")
    return ids


def check_inputs(config, tokens, at, mask):
    """The arguments of model_forward as arrays; ValueError where they do not fit."""
    tokens = check_ids("tokens", tokens, config.symbols + 1, 2)
    (B, T), M = tokens.shape, config.memory
    if at is not None:
        positions = range(T)[at] if isinstance(at, slice) else at
        at = check_ids("at", positions, T, 1).astype(int)  # a small type would overflow
        must(len(set(at.tolist())) == len(at), "at holds a position twice: must hold none twice")
        if getattr(positions, "step", None) == 1:
            at = slice(positions.start, positions.stop)  # the rows of a slice are a view
    if mask is not None:
        shape = (B, M + T, M + T)
        try:
            mask = np.broadcast_to(mask, shape)
        except ValueError:
            right = f"must be broadcastable to {shape}, memory first"
            raise ValueError(f"mask has shape {np.shape(mask)}: {right}") from None
        must(mask.dtype == bool, f"mask is {mask.dtype}: must be bool, True where a row may attend")
        passed_on = ~mask[:, M:, M:].all(axis=1) & mask[:, :M, M:].any(axis=1)
        honoured = config.variant not in BOTTLENECKS or not passed_on.any()
        right = f"in {config.variant}, hide it from memory too"
        must(honoured, f"mask hides a column from a sequence row but not from memory: {right}")
    return tokens, at, mask
