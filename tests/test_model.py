"""Whole models: against the tape and finite differences, and the structural facts of the paper."""

from dataclasses import replace

import numpy as np
import pytest

import memt
from autograd import check_grad, gradient_errors, value_and_grad

from .support import (
    READS,
    SIZES,
    B,
    T,
    configs,
    loss_and_grads,
    loss_function,
    name,
    random_batch,
    random_params,
)  # fmt: skip


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("config", configs(), ids=name)
def test_gradients_against_the_tape(config, read):
    rng = np.random.default_rng(10)
    params, (tokens, targets) = random_params(config, rng), random_batch(config, rng, read)
    loss, grads = loss_and_grads(params, tokens, targets, config, read)
    value, tape = value_and_grad(loss_function(tokens, targets, config, read))(params)
    assert abs(value - loss) < 1e-14
    errors = gradient_errors(grads, tape)
    assert max(errors.values()) < 1e-12, errors


@pytest.mark.parametrize("read", [None, READS["some"]], ids=["all", "some"])
@pytest.mark.parametrize("config", configs(layers=(2,)), ids=name)
def test_gradients_against_finite_differences(config, read):
    if config.window == 0:
        config = replace(config, window=1, layers=1)
    rng = np.random.default_rng(11)
    config = replace(config, width=6, hidden=5, memory=config.memory and 2)
    params = random_params(config, rng)
    tokens, targets = random_batch(config, rng, read)
    _, grads = loss_and_grads(params, tokens, targets, config, read)
    check_grad(loss_function(tokens, targets, config, read), params, grads)


@pytest.mark.parametrize("read", [READS["slice"], READS["some"]], ids=["slice", "some"])
@pytest.mark.parametrize("config", configs(), ids=name)
def test_read_gives_the_full_computation(config, read):
    rng = np.random.default_rng(12)
    params, (tokens, _) = random_params(config, rng), random_batch(config, rng)
    full, full_cache = memt.model_forward(params, tokens, config)
    some, some_cache = memt.model_forward(params, tokens, config, read)
    assert abs(some - full[:, read]).max() < 1e-13
    dlogits = rng.standard_normal(some.shape)
    spread = np.zeros_like(full)
    spread[:, read] = dlogits
    kept = dlogits.copy()
    errors = gradient_errors(
        memt.model_backward(dlogits, some_cache), memt.model_backward(spread, full_cache)
    )
    assert max(errors.values()) < 1e-12, errors
    assert np.array_equal(kept, dlogits)


@pytest.mark.parametrize("config", configs(layers=(2,)), ids=name)
def test_backward_can_be_called_again(config):
    rng = np.random.default_rng(13)
    params, (tokens, _) = random_params(config, rng), random_batch(config, rng)
    logits, cache = memt.model_forward(params, tokens, config)
    dlogits = rng.standard_normal(logits.shape)
    before = memt.flat(params).copy()
    first = memt.flat(memt.model_backward(dlogits, cache)).copy()
    assert np.array_equal(first, memt.flat(memt.model_backward(dlogits, cache)))
    assert np.array_equal(before, memt.flat(params))
    assert np.array_equal(logits, memt.model_forward(params, tokens, config)[0])


@pytest.mark.parametrize("config", configs(), ids=name)
def test_one_float_type_throughout(config):
    """float32 parameters make every intermediate float32, and the result close to float64's."""
    rng = np.random.default_rng(14)
    exact, (tokens, targets) = random_params(config, rng), random_batch(config, rng)
    params = memt.zero_params(config)
    memt.flat(params)[:] = memt.flat(exact)

    def arrays(x):
        if isinstance(x, np.ndarray):
            yield x
        elif isinstance(x, (tuple, list)):
            for y in x:
                yield from arrays(y)

    logits, cache = memt.model_forward(params, tokens, config)
    loss, loss_cache = memt.cross_entropy_forward(logits, targets)
    dlogits = memt.cross_entropy_backward(np.float64(1), loss_cache)
    grads = memt.model_backward(dlogits, cache)
    floats = [a for a in arrays([cache, loss_cache, loss, dlogits]) if a.dtype.kind == "f"]
    assert len(floats) > 10 and loss.dtype == np.float32
    assert {a.dtype for a in [*floats, *grads.values()]} == {np.dtype(np.float32)}
    assert memt.attention_maps(cache).dtype == np.float32
    _, reference = loss_and_grads(exact, tokens, targets, config)
    assert max(gradient_errors(grads, reference).values()) < 1e-3


# ---------------------------------------------------------------- structural facts


def twins(layers, rng):
    """A memtransformer, and a memctrl whose two parameter sets both equal its one."""
    shared = memt.Config(**SIZES, layers=layers, memory=5, variant="memtransformer")
    two = replace(shared, variant="memctrl")
    params = random_params(shared, rng)
    copies = memt.zero_params(two, np.float64)
    for n, p in copies.items():
        p[...] = params[n.replace(".mem.", ".all.").replace(".seq.", ".all.")]
    return (shared, params), (two, copies)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_equal_sets(layers):
    """MemCtrl with equal parameter sets is MemTransformer."""
    rng = np.random.default_rng(20)
    (shared, params), (two, copies) = twins(layers, rng)
    tokens, targets = random_batch(shared, rng)
    a, cache_a = memt.model_forward(params, tokens, shared)
    b, cache_b = memt.model_forward(copies, tokens, two)
    assert abs(a - b).max() < 1e-13
    assert abs(memt.final_memory(cache_a) - memt.final_memory(cache_b)).max() < 1e-13
    maps = memt.attention_maps(cache_a) - memt.attention_maps(cache_b)
    assert abs(maps).max() < 1e-14
    _, grads = loss_and_grads(params, tokens, targets, shared)
    _, halves = loss_and_grads(copies, tokens, targets, two)
    summed = {
        n: halves[n.replace(".all.", ".mem.")] + halves[n.replace(".all.", ".seq.")]
        if ".all." in n else halves[n]
        for n in grads
    }  # fmt: skip
    assert max(gradient_errors(summed, grads).values()) < 1e-12


def changed_rows(variant, layers, rng):
    """Which sequence rows of the logits change, bit for bit, when symbol 4 changes."""
    config = memt.Config(**SIZES, layers=layers, memory=5, variant=variant)
    params, (tokens, _) = random_params(config, rng), random_batch(config, rng)
    other = tokens.copy()
    other[:, 4] = (tokens[:, 4] + 1) % config.symbols
    a, b = (memt.model_forward(params, t, config)[0] for t in (tokens, other))
    return [j for j in range(T) if not np.array_equal(a[:, j], b[:, j])]


@pytest.mark.parametrize(
    "variant, layers, expected",
    [
        ("masked", 1, [4]),  # a write needs one layer, a read the next
        ("masked", 2, list(range(T))),
        ("membottleneck", 1, list(range(T))),  # it writes and reads within one layer
        ("memtransformer", 1, list(range(T))),
    ],
)
def test_reach(variant, layers, expected):
    """Which outputs notice that one symbol changes."""
    assert changed_rows(variant, layers, np.random.default_rng(21)) == expected


def test_window_limits_the_sequence_and_memory_bridges_it():
    rng = np.random.default_rng(22)
    for variant, layers, expected in [
        ("transformer", 1, [2, 3, 4, 5, 6]),
        ("transformer", 2, list(range(T))),
        ("memtransformer", 1, [2, 3, 4, 5, 6]),
        ("memctrl", 1, [2, 3, 4, 5, 6]),
        ("memctrl", 2, list(range(T))),
    ]:
        memory = 0 if variant == "transformer" else 5
        config = memt.Config(**SIZES, layers=layers, memory=memory, variant=variant, window=2)
        params, (tokens, _) = random_params(config, rng), random_batch(config, rng)
        other = tokens.copy()
        other[:, 4] = (tokens[:, 4] + 1) % config.symbols
        a, b = (memt.model_forward(params, t, config)[0] for t in (tokens, other))
        assert [j for j in range(T) if not np.array_equal(a[:, j], b[:, j])] == expected


def test_a_wide_window_is_no_window():
    rng = np.random.default_rng(23)
    config = memt.Config(**SIZES, layers=2, memory=5, variant="memctrl", window=T - 1)
    params, (tokens, _) = random_params(config, rng), random_batch(config, rng)
    a, _ = memt.model_forward(params, tokens, config)
    b, _ = memt.model_forward(params, tokens, replace(config, window=None))
    assert abs(a - b).max() < 1e-14


def test_memory_first():
    """Membottleneck by hand from `update`, in the right order; in the wrong one it differs."""
    rng = np.random.default_rng(24)
    config = memt.Config(**SIZES, layers=1, memory=5, variant="membottleneck")
    params, (tokens, _) = random_params(config, rng), random_batch(config, rng)
    p = memt.role_params(params, config, 0)
    (old, seq), _ = memt.embedding_forward(tokens, params["embed"], params["memory"])
    both = np.concatenate((old, seq), axis=1)
    new, _ = memt.update_forward(old, both, p["mem"], config.heads)
    logits, cache = memt.model_forward(params, tokens, config)
    for memory, same in ((new, True), (old, False)):
        out, _ = memt.update_forward(seq, memory, p["seq"], config.heads)
        assert (abs(out @ params["out_w"] + params["out_b"] - logits).max() < 1e-13) == same
    assert abs(memt.final_memory(cache) - new).max() < 1e-13


@pytest.mark.parametrize("variant", memt.VARIANTS[1:])
def test_memory_order_means_nothing(variant):
    """Memory tokens permuted: the same logits, the final memory permuted with them."""
    rng = np.random.default_rng(25)
    config = memt.Config(**SIZES, layers=2, memory=5, variant=variant)
    params, (tokens, _) = random_params(config, rng), random_batch(config, rng)
    a, cache_a = memt.model_forward(params, tokens, config)
    order = np.array([3, 0, 4, 1, 2])
    b, cache_b = memt.model_forward({**params, "memory": params["memory"][order]}, tokens, config)
    assert abs(a - b).max() < 1e-13
    difference = memt.final_memory(cache_a)[:, order] - memt.final_memory(cache_b)
    assert abs(difference).max() < 1e-13


@pytest.mark.parametrize("variant", memt.VARIANTS[1:])
def test_equal_memory_rows_stay_equal(variant):
    rng = np.random.default_rng(26)
    config = memt.Config(**SIZES, layers=2, memory=5, variant=variant)
    params, (tokens, targets) = random_params(config, rng), random_batch(config, rng)
    params["memory"][:] = params["memory"][0]
    _, cache = memt.model_forward(params, tokens, config)
    assert np.ptp(memt.final_memory(cache), axis=1).max() < 1e-13
    _, grads = loss_and_grads(params, tokens, targets, config)
    assert np.ptp(grads["memory"], axis=0).max() < 1e-13 < abs(grads["memory"]).max()


@pytest.mark.parametrize("share", [False, True])
def test_gradients_that_are_exactly_zero(share):
    """The last memory update of memctrl feeds nothing; that of membottleneck feeds the readout."""
    rng = np.random.default_rng(27)
    for variant in ("memctrl", "membottleneck"):
        for read in READS.values():
            config = memt.Config(
                **SIZES, layers=2, memory=5, variant=variant, share_controller=share
            )
            params = random_params(config, rng)
            tokens, targets = random_batch(config, rng, read)
            tokens[tokens == 3] = 2  # symbol 3 does not occur
            _, grads = loss_and_grads(params, tokens, targets, config, read)
            zero = {n for n, g in grads.items() if not g.any()}
            dead = {n for n in grads if n.startswith("layers.1.mem.")}
            assert zero == (dead if variant == "memctrl" else set())
            assert not grads["embed"][3].any() and grads["embed"][2].any()


def test_a_shared_controller_gets_the_sum():
    rng = np.random.default_rng(28)
    for variant in ("memctrl", "membottleneck"):
        one = memt.Config(**SIZES, layers=3, memory=5, variant=variant, share_controller=True)
        own = replace(one, share_controller=False)
        params, (tokens, targets) = random_params(one, rng), random_batch(one, rng)
        copies = memt.zero_params(own, np.float64)
        for n, p in copies.items():
            p[...] = params[f"controller.{n.rpartition('.')[2]}" if ".mem." in n else n]
        _, grads = loss_and_grads(params, tokens, targets, one)
        _, parts = loss_and_grads(copies, tokens, targets, own)
        for n, g in grads.items():
            if n.startswith("controller."):
                g -= sum(parts[n.replace("controller", f"layers.{l}.mem")] for l in range(3))
                assert abs(g).max() < 1e-13
            else:
                assert abs(g - parts[n]).max() < 1e-13


# ---------------------------------------------------------------- maps and memory


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("config", configs(), ids=name)
def test_attention_maps(config, read):
    rng = np.random.default_rng(30)
    M, L, R = config.memory, config.layers, np.arange(T)[slice(None) if read is None else read]
    params, (tokens, _) = random_params(config, rng), random_batch(config, rng)
    _, cache = memt.model_forward(params, tokens, config, read)
    maps = memt.attention_maps(cache)
    assert maps.shape == (L, B, config.heads, M + T, M + T)
    computed = np.isin(np.arange(M + T), M + R)
    computed[:M] = read is None or config.variant == "membottleneck"
    assert np.isnan(maps[-1][:, :, ~computed]).all()
    for weights in (*maps[:-1], maps[-1][:, :, computed]):
        assert abs(weights.sum(axis=-1) - 1).max() < 1e-14
    across = abs(np.arange(T)[:, None] - np.arange(T))
    reach = {"masked": -1, "membottleneck": -1}.get(config.variant, config.window)
    seen = across <= (T if reach is None else reach)
    for weights in maps:
        block = np.nan_to_num(weights[:, :, M:, M:])
        assert not block[:, :, ~seen].any()
        weights = np.nan_to_num(weights, nan=1.0)
        assert (weights[:, :, :M] > 0).all() and (weights[:, :, M:, :M] > 0).all()


def test_the_read_block_of_membottleneck_is_attention_to_the_updated_memory():
    rng = np.random.default_rng(31)
    config = memt.Config(**SIZES, layers=1, memory=5, variant="membottleneck")
    params, (tokens, _) = random_params(config, rng), random_batch(config, rng)
    _, cache = memt.model_forward(params, tokens, config)
    (_, seq), _ = memt.embedding_forward(tokens, params["embed"], params["memory"])
    D = config.width // config.heads
    for h in range(config.heads):
        cols = slice(h * D, (h + 1) * D)
        q = seq @ params["layers.0.seq.wq"][:, cols]
        k = memt.final_memory(cache) @ params["layers.0.seq.wkv"][:, cols]
        p, _ = memt.softmax_forward(q @ k.swapaxes(1, 2) / np.sqrt(D))
        assert abs(memt.attention_maps(cache)[0, :, h, 5:, :5] - p).max() < 1e-14


def test_final_memory_that_read_left_out():
    rng = np.random.default_rng(32)
    for variant in memt.VARIANTS[1:]:
        config = memt.Config(**SIZES, layers=2, memory=5, variant=variant)
        params, (tokens, _) = random_params(config, rng), random_batch(config, rng)
        _, full = memt.model_forward(params, tokens, config)
        _, cache = memt.model_forward(params, tokens, config, slice(4, None))
        if variant == "membottleneck":
            assert np.array_equal(memt.final_memory(cache), memt.final_memory(full))
        else:
            with pytest.raises(ValueError, match="read=None"):
                memt.final_memory(cache)


# ---------------------------------------------------------------- parameters, inputs


def test_parameters_are_views_of_one_vector():
    for config in configs():
        params = memt.init_params(config, np.random.default_rng(0))
        vector = memt.flat(params)
        vector[:] = np.arange(vector.size)
        joined = np.concatenate([p.ravel() for p in params.values()])
        assert np.array_equal(joined, vector) and vector.dtype == np.float32
        shapes = {n: p.shape for n, p in params.items()}
        assert shapes == dict(memt.param_shapes(config))
    with pytest.raises(ValueError, match="views of one vector"):
        memt.flat({n: p.copy() for n, p in params.items()})
    with pytest.raises(ValueError, match="views of one vector"):
        memt.flat({**params, "out_b": np.zeros_like(params["out_b"])})


def test_names_of_parameters():
    short = ["wq", "wkv", "wo", "ln1_g", "ln1_b", "w1", "b1", "w2", "b2", "ln2_g", "ln2_b"]
    for config in configs(layers=(2,)):
        if config.variant in ("memctrl", "membottleneck"):
            mem = ["controller"] if config.share_controller else ["layers.0.mem", "layers.1.mem"]
            prefixes = [*mem, "layers.0.seq", "layers.1.seq"]
        else:
            prefixes = ["layers.0.all", "layers.1.all"]
        names = {f"{prefix}.{n}" for prefix in prefixes for n in short}
        assert set(memt.param_shapes(config)) == names | {"embed", "memory", "out_w", "out_b"}


def test_initialisation():
    config = memt.Config(width=64, heads=4, hidden=256, memory=16)
    params = memt.init_params(config, np.random.default_rng(0))
    again = memt.init_params(config, np.random.default_rng(0))
    exact = memt.init_params(config, np.random.default_rng(0), np.float64)
    assert np.array_equal(memt.flat(params), memt.flat(again))
    assert np.array_equal(memt.flat(params), memt.flat(exact).astype(np.float32))
    for n, p in exact.items():
        if p.ndim == 2:
            expected = 1 if n in ("embed", "memory") else len(p) ** -0.5
            assert 0.85 < p.std() / expected < 1.15, n
        else:
            assert (p == (1 if n.endswith("_g") else 0)).all(), n


def test_positions():
    """Sines and cosines by turns, wavelengths from 2 pi to 10000 * 2 pi; the memory has none."""
    table = memt.sinusoids(5, 6, np.float64)
    for i in range(3):
        angle = np.arange(5) / 10000 ** (2 * i / 6)
        assert np.allclose(table[:, 2 * i], np.sin(angle), atol=1e-15)
        assert np.allclose(table[:, 2 * i + 1], np.cos(angle), atol=1e-15)
    tokens, memory = np.zeros((2, 5), int), np.ones((3, 6))
    (mem, seq), _ = memt.embedding_forward(tokens, np.zeros((4, 6)), memory)
    assert np.array_equal(mem, np.ones((2, 3, 6))) and np.array_equal(seq, [table, table])


BAD_CONFIGS = [
    ({"variant": "memtransfomer"}, ValueError, "memtransfomer.*'memtransformer'"),
    ({"variant": 3}, ValueError, "variant is 3"),
    ({"width": 30}, ValueError, "width is 30.*multiple of heads"),
    ({"width": 33, "heads": 3}, ValueError, "width is 33.*even"),
    ({"memory": 0}, ValueError, "memory is 0.*at least 1"),
    ({"variant": "transformer", "memory": 3}, ValueError, "memory is 3.*give 0"),
    ({"layers": 0}, ValueError, "layers is 0"),
    ({"heads": 0}, ValueError, "heads is 0"),
    ({"symbols": 0}, ValueError, "symbols is 0"),
    ({"hidden": -1}, ValueError, "hidden is -1"),
    ({"hidden": 2**40}, ValueError, "hidden is 1099511627776.*below"),
    ({"width": 32.0}, TypeError, "width is 32.0"),
    ({"layers": True}, TypeError, "layers is True"),
    ({"window": 2}, ValueError, "window is 2.*membottleneck has none"),
    ({"variant": "masked", "window": 2}, ValueError, "window is 2.*masked has none"),
    ({"variant": "memctrl", "window": -1}, ValueError, "window is -1"),
    ({"variant": "masked", "share_controller": True}, ValueError, "share_controller is True"),
    ({"share_controller": 1}, TypeError, "share_controller is 1"),
]


@pytest.mark.parametrize("fields, error, message", BAD_CONFIGS, ids=str)
def test_bad_configurations(fields, error, message):
    with pytest.raises(error, match=message):
        memt.Config(**fields)


BAD_INPUTS = [
    ({"tokens": np.zeros((2, 4))}, "tokens are float64"),
    ({"tokens": np.zeros(4, int)}, r"tokens have shape \(4,\)"),
    ({"tokens": np.zeros((0, 4), int)}, "not none"),
    ({"tokens": np.full((2, 4), 7)}, "tokens hold 7: must be from 0 to 6"),
    ({"tokens": np.full((2, 4), -1)}, "tokens hold -1"),
    ({"read": np.array([4])}, "read hold 4"),
    ({"read": np.array([1, 1])}, "none twice"),
    ({"read": slice(4, None)}, "at least one"),
    ({"read": np.array([[0], [1]])}, "read is"),
    ({"read": np.array([True, False, True, False])}, "read are bool"),
    ({"params": {}}, "'embed' are missing"),
    ({"params": memt.init_params(memt.Config(**SIZES), np.random.default_rng(0))}, "memory"),
]


@pytest.mark.parametrize("given, message", BAD_INPUTS, ids=[m for _, m in BAD_INPUTS])
def test_bad_inputs(given, message):
    config = memt.Config(**SIZES, memory=5)
    params = memt.init_params(config, np.random.default_rng(0))
    given = {"params": params, "tokens": np.zeros((2, 4), int), "config": config, **given}
    with pytest.raises(ValueError, match=message):
        memt.model_forward(**given)


def test_bad_types_and_gradients():
    config = memt.Config(**SIZES, memory=5)
    with pytest.raises(ValueError, match="must be float32 or float64"):
        memt.init_params(config, np.random.default_rng(0), int)
    params = memt.init_params(config, np.random.default_rng(0))
    mixed = {**params, "out_b": params["out_b"].astype(np.float64)}
    with pytest.raises(ValueError, match="several types"):
        memt.model_forward(mixed, np.zeros((2, 4), int), config)
    logits, cache = memt.model_forward(params, np.zeros((2, 4), int), config)
    with pytest.raises(ValueError, match=r"dlogits have shape \(4, 2, 6\): must be \(2, 4, 6\)"):
        memt.model_backward(logits.swapaxes(0, 1), cache)


def test_bad_targets():
    for targets, message in [
        (np.array([[0, 6]]), "targets hold 6"),
        (np.array([0, 1]), "targets have shape"),
        (np.array([[0.0, 1.0]]), "targets are float64"),
    ]:
        with pytest.raises(ValueError, match=message):
            memt.cross_entropy_forward(np.zeros((1, 2, 6)), targets)
