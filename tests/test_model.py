"""Whole models: against the tape and finite differences, structural facts, and what is refused."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memt
from autograd import check_grad, gradient_errors, value_and_grad

from .support import (
    AT,
    SIZES,
    B,
    T,
    cases,
    configs,
    loss_of,
    name,
    random_case,
    random_mask,
    random_params,
)

M, N = 5, 5 + T  # memory tokens, all rows


def config_of(variant, **fields):
    memory = 0 if variant == "transformer" else M
    return memt.Config(**{**SIZES, "memory": memory, **fields}, variant=variant)


@pytest.mark.parametrize("variant", memt.VARIANTS)
@settings(max_examples=50)
@given(st.data())
def test_gradients_against_the_tape(variant, data):
    case = data.draw(cases(variant))
    loss, grads = memt.loss_and_grads(*case)
    _, again = memt.loss_and_grads(*case)
    assert np.array_equal(memt.flat(grads), memt.flat(again))
    value, tape = value_and_grad(loss_of(case))(case.params)
    assert np.isclose(value, loss, rtol=1e-13, atol=1e-15)
    errors = gradient_errors(grads, tape)
    assert max(errors.values()) < 1e-11, errors


@pytest.mark.parametrize("variant", memt.VARIANTS)
def test_gradients_against_finite_differences(variant):
    rng = np.random.default_rng(11)
    config = config_of(variant, width=6, hidden=5, outputs=4)
    case = random_case(config, rng, AT["some"], random_mask(config, rng))
    check_grad(loss_of(case), case.params, memt.loss_and_grads(*case)[1])


@pytest.mark.parametrize("config", configs(layers=(2,)), ids=name)
def test_float32_stays_float32(config):
    """And is close to float64."""
    rng = np.random.default_rng(14)
    case = random_case(config, rng, mask=random_mask(config, rng))
    params = memt.to_params(config, {n: p.astype(np.float32) for n, p in case.params.items()})
    logits, cache = memt.model_forward(params, case.tokens, config, mask=case.mask)
    loss, grads = memt.loss_and_grads(params, *case[1:])
    types = {a.dtype for a in (logits, cache.memory, memt.attention_maps(cache), loss)}
    assert types | {memt.flat(grads).dtype} == {np.dtype(np.float32)}
    assert max(gradient_errors(grads, memt.loss_and_grads(*case)[1]).values()) < 1e-3


# ---------------------------------------------------------------- structural facts
@pytest.mark.parametrize("layers", [1, 3])
def test_equal_sets(layers):
    """MemCtrl with two equal parameter sets is MemTransformer."""
    shared, two = (config_of(v, layers=layers) for v in ("memtransformer", "memctrl"))
    params, tokens, *_ = random_case(shared, np.random.default_rng(20))
    copies = memt.zero_params(two, np.float64)
    for n, p in copies.items():
        p[...] = params[n.replace(".mem.", ".all.").replace(".seq.", ".all.")]
    a, cache_a = memt.model_forward(params, tokens, shared)
    b, cache_b = memt.model_forward(copies, tokens, two)
    assert abs(a - b).max() < 1e-13
    assert abs(memt.memory_states(cache_a)[-1] - memt.memory_states(cache_b)[-1]).max() < 1e-13
    assert abs(memt.attention_maps(cache_a) - memt.attention_maps(cache_b)).max() < 1e-14


CAUSAL, HIDDEN = np.tri(T, dtype=bool), np.ones((N, N), bool)
HIDDEN[[0, 1, 2, 3, 4, M + 1], M + 4] = False  # position 4 from memory, and from position 1
EVERY, NEAR = list(range(T)), [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "variant, layers, window, mask, expected",
    [
        ("masked", 1, None, None, [4]),  # a write needs one layer, a read the next
        ("masked", 2, None, None, EVERY),
        ("membottleneck", 1, None, None, EVERY),  # it writes and reads within one layer
        ("memtransformer", 1, None, None, EVERY),
        ("transformer", 1, 2, None, NEAR),
        ("transformer", 2, 2, None, EVERY),
        ("memtransformer", 1, 2, None, NEAR),
        ("memctrl", 1, 0, None, [4]),
        ("memctrl", 2, 0, None, EVERY),  # memory bridges the window
        ("transformer", 3, None, CAUSAL, [4, 5, 6, 7, 8]),
        ("transformer", 1, 2, CAUSAL, [4, 5, 6]),
        ("memctrl", 1, None, HIDDEN, [0, 2, 3, 4, 5, 6, 7, 8]),
        ("masked", 3, None, HIDDEN, [4]),
        ("membottleneck", 3, None, HIDDEN, [4]),
    ],
)
def test_reach(variant, layers, window, mask, expected):
    """Which outputs change, in any bit, if the symbol at position 4 changes."""
    config = config_of(variant, layers=layers, window=window)
    params, tokens, *_ = random_case(config, np.random.default_rng(21))
    other = tokens.copy()
    other[:, 4] = (tokens[:, 4] + 1) % config.symbols
    a, b = (memt.model_forward(params, t, config, mask=mask)[0] for t in (tokens, other))
    assert [j for j in range(T) if not np.array_equal(a[:, j], b[:, j])] == expected


@pytest.mark.parametrize("config", configs(layers=(2,)), ids=name)
def test_padding(config):
    """A mask for each example gives the outputs of its shorter sequence alone."""
    params, tokens, *_ = random_case(config, np.random.default_rng(22))
    lengths = (9, 6)
    mask = np.array([np.arange(config.memory + T) < config.memory + n for n in lengths])[:, None]
    if config.window is not None and not config.memory:
        mask = mask | np.eye(T, dtype=bool)  # far padding would have nothing to attend to
    logits, cache = memt.model_forward(params, tokens, config, mask=mask)
    for i, n in enumerate(lengths):
        alone, short = memt.model_forward(params, tokens[i : i + 1, :n], config)
        assert abs(logits[i, :n] - alone[0]).max() < 1e-13
        memory = memt.memory_states(cache)[-1][i] - memt.memory_states(short)[-1][0]
        assert abs(memory).max(initial=0) < 1e-13


def test_no_mask_is_made_where_nothing_is_hidden():
    for variant in ("transformer", "memtransformer", "memctrl", "membottleneck"):
        assert memt.build_mask(config_of(variant), T, np.float32) is None


def test_memory_first():
    """Membottleneck by hand from `update`, in the right order; the wrong order differs."""
    config = config_of("membottleneck", layers=1)
    params, tokens, *_ = random_case(config, np.random.default_rng(24))
    p = memt.role_params(params, config, 0)
    (old, seq), _ = memt.embedding_forward(tokens, params["embed"], params["memory"])
    new, _ = memt.update_forward(old, np.concatenate((old, seq), axis=1), p["mem"], config.heads)
    logits, cache = memt.model_forward(params, tokens, config)
    for memory, same in ((new, True), (old, False)):
        out, c_seq = memt.update_forward(seq, memory, p["seq"], config.heads)
        assert (abs(out @ params["out_w"] + params["out_b"] - logits).max() < 1e-13) == same
        read = memt.attention_maps(cache)[0][:, :, M:, :M]
        assert np.allclose(read, c_seq.attention.p, rtol=1e-12, atol=0) == same


# ---------------------------------------------------------------- looking inside
@pytest.mark.parametrize("at", AT.values(), ids=AT)
@pytest.mark.parametrize("config", configs(layers=(1, 2)), ids=name)
def test_attention_maps(config, at):
    """Rows that were computed sum to 1 and are 0 exactly where the variant or the mask hides."""
    rng = np.random.default_rng(30)
    M, N = config.memory, config.memory + T
    params, tokens, *_ = random_case(config, rng)
    mask = None if at is None else random_mask(config, rng)
    _, cache = memt.model_forward(params, tokens, config, at, mask)
    maps = memt.attention_maps(cache)
    assert maps.shape == (config.layers, B, config.heads, N, N)
    computed = np.isin(np.arange(N), M + np.arange(T)[slice(None) if at is None else at])
    computed[:M] = cache.memory.shape[1] == M
    assert np.isnan(maps[-1][:, :, ~computed]).all()
    reach = -1 if config.variant in memt.BOTTLENECKS else config.window
    seen = np.ones((B, N, N), bool) if mask is None else mask.copy()
    seen[:, M:, M:] &= abs(np.arange(T)[:, None] - np.arange(T)) <= (T if reach is None else reach)
    for weights in (*maps[:-1], maps[-1][:, :, computed]):
        rows = seen if weights.shape[2] == N else seen[:, computed]
        assert abs(weights.sum(axis=-1) - 1).max() < 1e-14
        assert np.array_equal(weights > 0, np.broadcast_to(rows[:, None], weights.shape))


@pytest.mark.parametrize("variant", memt.VARIANTS[1:])
def test_memory_states(variant):
    """Those of models of fewer layers; copies, as are the tokens; an error if `at` left one out."""
    config = config_of(variant)
    params, tokens, *_ = random_case(config, np.random.default_rng(32))
    logits, full = memt.model_forward(params, tokens, config)
    before = memt.flat(memt.model_backward(logits, full))
    for layers, memory in enumerate(memt.memory_states(full)):
        if layers:
            shallow = replace(config, layers=layers)
            own = {name: params[name] for name in memt.param_shapes(shallow)}
            _, cache = memt.model_forward(own, tokens, shallow)
            assert np.array_equal(memory, cache.memory)
        else:
            assert (memory == params["memory"]).all()
    _, cache = memt.model_forward(params, tokens, config, slice(4, None))
    memt.memory_states(full)[-1][:] = tokens[:] = 3
    assert np.array_equal(memt.flat(memt.model_backward(logits, full)), before)
    if cache.memory.size:  # sequence rows read the new memory
        assert np.array_equal(memt.memory_states(cache)[-1], memt.memory_states(full)[-1])
    else:
        with pytest.raises(ValueError, match="at=None"):
            memt.memory_states(cache)[-1]


# ---------------------------------------------------------------- parameters
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_initialisation(dtype):
    """Ours; both float types start from the same model."""
    config = memt.Config(width=64, heads=4, hidden=256, memory=16, outputs=3)
    params, exact = (
        memt.init_params(config, np.random.default_rng(0), kind) for kind in (dtype, np.float64)
    )
    vector = memt.flat(params)
    assert vector.dtype == dtype and np.array_equal(vector, memt.flat(exact).astype(dtype))
    assert np.array_equal(np.concatenate([p.ravel() for p in params.values()]), vector)
    for n, shape in memt.param_shapes(config).items():
        assert params[n].shape == shape
        if len(shape) == 2:
            expected = 1 if n in ("embed", "memory") else shape[0] ** -0.5
            assert 0.8 < params[n].std() / expected < 1.2, n
        else:
            assert (params[n] == (1 if n.endswith("_g") else 0)).all(), n


@pytest.mark.parametrize("seed", range(200))
def test_without_positions_and_memory_only_proportions_count(seed):
    """Writing every token twice changes no output of a plain Transformer: no softmax average moves.

    By induction over the layers, for all parameters. Counts double, so it cannot count. Memory rows
    and blanks are not doubled, and positions tell the copies apart.
    """
    rng = np.random.default_rng([33, seed])
    heads, layers = (int(n) for n in rng.integers(1, 4, size=2))
    sizes = {"symbols": 4, "width": 4 * heads, "heads": heads, "hidden": 7, "layers": layers}
    plain = memt.Config(**sizes, memory=0, variant="transformer", positions=False)
    tokens = rng.integers(4, size=(3, 6))
    twice, blank = tokens.repeat(2, axis=1), np.full((3, 1), 4)

    def change(config, tokens=tokens, twice=twice):
        params = random_params(config, np.random.default_rng(seed))
        once, doubled = (memt.model_forward(params, x, config)[0] for x in (tokens, twice))
        return abs(doubled[:, : 2 * 6 : 2] - once[:, :6]).max()

    assert change(plain) < 1e-12
    with_memory = replace(plain, variant="memtransformer", memory=int(rng.integers(1, 4)))
    with_blank = np.hstack((tokens, blank)), np.hstack((twice, blank))
    others = change(with_memory), change(replace(plain, positions=True)), change(plain, *with_blank)
    assert min(others) > 1e-6


def test_flat_refuses_what_is_not_one_vector():
    params = memt.init_params(memt.Config(), np.random.default_rng(0))
    copies = {n: p.copy() for n, p in params.items()}
    wq, wo = "layers.0.seq.wq", "layers.0.seq.wo"
    swapped = {wq: params[wo], wo: params[wq]}
    parts, turned = {"out_b": params["out_b"][:4]}, {wq: params[wq].T}
    others = {"out_b": copies["out_b"]}, {"embed": copies["embed"]}, {wq: params[wo]}
    for other in (copies, parts, turned, swapped, *others):
        with pytest.raises(ValueError, match="views of one vector"):
            memt.flat({**params, **other})
    size = memt.param_count(memt.Config())
    for vector in (np.zeros((1, size))[0], np.zeros(size, int).view(float)):
        with pytest.raises(ValueError, match="views of one vector"):
            memt.flat(memt.views(memt.Config(), vector))
    with pytest.raises(ValueError, match=r"vector has shape \(9,\): must be"):
        memt.views(memt.Config(), np.zeros(9))


def test_what_is_kept_between_calls_cannot_be_changed():
    config = memt.Config()
    for change in (
        lambda: memt.param_shapes(config).clear(),
        lambda: memt.param_shapes(config).update(embed=(1, 2)),
        lambda: memt.sinusoids(3, 4, np.float32).fill(0),
        lambda: setattr(config, "layers", 3),
    ):
        with pytest.raises((AttributeError, ValueError, FrozenInstanceError)):
            change()


# ---------------------------------------------------------------- what fits, and what is refused

LEAST = {"symbols": 1, "width": 2, "heads": 1, "hidden": 1, "layers": 1, "memory": 1, "window": 0,
         "outputs": 1}  # fmt: skip


@given(st.sampled_from(list(LEAST)), st.data())
def test_numbers_that_no_configuration_has(field, data):
    small, large = st.integers(max_value=LEAST[field] - 2), st.integers(min_value=2**31)
    other = st.floats() | st.text() | st.booleans() | st.lists(st.none()) | st.just(np.int64(3))
    value = data.draw(small | large | other | st.sampled_from((LEAST[field] - 1, 2**31)))
    with pytest.raises(ValueError if type(value) is int else TypeError) as error:
        memt.Config(**{"variant": "memctrl", "heads": 1, field: value})
    assert f"{field} is {value!r}: must be" in str(error.value)


def test_numbers_that_a_configuration_may_have():
    for most in ({}, {"layers": 9999}, {"memory": 2**30 - 999}, {"window": 2**31 - 1}):
        memt.Config(**LEAST | most, variant="memctrl")
    with pytest.raises(ValueError, match=r"parameters \(8 GiB in float32\): must be fewer"):
        memt.Config(**LEAST | {"memory": 2**30}, variant="memctrl")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"variant": "memtransfomer"}, "'memtransfomer'.* memtransformer"),
        ({"variant": ["masked"]}, r"variant is \['masked'\]"),
        ({"width": 30}, r"width is 30.*\b4\b"),
        ({"width": 33, "heads": 3}, "width is 33.*even"),
        ({"memory": 0, "variant": "masked"}, "memory is 0"),
        ({"variant": "transformer", "memory": 3}, "memory is 3.* 0"),
        ({"window": 2}, "window is 2.*None in membottleneck"),
        ({"variant": "masked", "window": 0}, "window is 0.*None in masked"),
        ({"variant": "masked", "share_controller": True}, "share_controller is True.*masked"),
        ({"positions": 1}, "positions is 1: must be True or False"),
        ({"share_controller": 1}, "share_controller is 1"),
    ],
    ids=str,
)
def test_bad_configurations(fields, message):
    with pytest.raises(ValueError, match=message):
        memt.Config(**fields)


CONFIG = config_of("membottleneck")
PARAMS = memt.init_params(CONFIG, np.random.default_rng(0))
ALL = np.ones((2, 9, 9), bool)


def hidden(*index):
    mask = ALL.copy()
    mask[index] = False
    return {"mask": mask}


def typed(dtype):
    return {"params": {n: p.astype(dtype) for n, p in PARAMS.items()}}


@pytest.mark.parametrize(
    "given, message",
    [
        ({"tokens": np.zeros((2, 4))}, "tokens.* float64"),
        ({"tokens": np.zeros(4, int)}, r"tokens.*\(4,\)"),
        ({"tokens": np.zeros((0, 4), int)}, "tokens is empty"),
        ({"tokens": np.full((2, 4), 7)}, "tokens.* 7: .*from 0 to 6"),
        ({"tokens": np.full((2, 4), -1)}, "tokens.* -1 "),
        ({"targets": np.full((2, 4), 6)}, "targets.* 6: .*from 0 to 5"),
        ({"targets": np.full((2, 4), -1)}, "targets.* -1 "),
        ({"targets": np.zeros((2, 3), int)}, r"targets.*\(2, 3\).*\(2, 4\)"),
        ({"targets": np.zeros((2, 4))}, "targets.* float64"),
        ({"at": [-1]}, "at.* -1 "),
        ({"at": np.array([1, 1])}, "at .*twice"),
        ({"at": slice(4, None)}, "at is empty"),
        ({"at": np.array([[0], [1]])}, r"at.*\(2, 1\)"),
        ({"at": np.array([True, False, True, False])}, "at.*bool"),
        ({"mask": ALL.astype(int)}, "mask.*int64.*bool"),
        ({"mask": ALL[:, :8, :8]}, r"mask has shape \(2, 8, 8\).*\(2, 9, 9\)"),
        (hidden(1, 3), "mask.*row"),
        (hidden(1, 7, slice(M)), "mask.*row"),  # it has sequence rows only
        (hidden(0, 6, 7), "mask hides.*membottleneck"),  # memory would pass it on
        ({"params": {}}, "'embed'"),
        ({"params": {**PARAMS, "out_b": [0.0] * 6}}, "out_b"),
        ({"params": {**PARAMS, "out_b": PARAMS["out_b"][None]}}, r"out_b.*\(1, 6\).*\(6,\)"),
        ({"params": {**PARAMS, "out_b": np.zeros(6)}}, "float(32|64).*float(32|64)"),
        pytest.param({"config": replace(CONFIG, layers=1)}, "layers.1", id="b2-layers-1"),
        pytest.param({"config": replace(CONFIG, layers=3)}, "layers.2", id="b2-layers-3"),
        pytest.param({"params": PARAMS | {"layers.0.mem.old.wq": 0.1}}, "old.wq", id="b2-more"),
        pytest.param(typed(int), "int64", id="b3-int64"),
        pytest.param(typed(bool), "bool", id="b3-bool"),
        pytest.param(typed(np.float16), "float16", id="b3-float16"),
    ],
)
def test_bad_inputs(given, message):
    ids = {"tokens": np.zeros((2, 4), int), "targets": np.zeros((2, 4), int)}
    given = {"params": PARAMS, "config": CONFIG, **ids, **given}
    with pytest.raises(ValueError, match=message) as error:
        memt.loss_and_grads(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("variant", memt.VARIANTS)
def test_positions_of_a_small_integer_type(variant, dtype):
    """M + position would overflow."""
    config, length = config_of(variant, layers=1), np.iinfo(dtype).max - 1
    at = np.array([length - 1, 2, length - 3], dtype)
    params, tokens, *_ = random_case(config, np.random.default_rng(34), length=length)
    full, _ = memt.model_forward(params, tokens, config)
    some, _ = memt.model_forward(params, tokens, config, at)
    assert abs(some - full[:, at.astype(int)]).max() < 1e-12


def test_bad_types_and_gradients():
    for params in (None, []):
        with pytest.raises(ValueError, match=r"params is (NoneType|list): must be a dict"):
            memt.model_forward(params, np.zeros((2, 4), int), CONFIG)
    with pytest.raises(ValueError, match="rng is 0: must be"):
        memt.init_params(CONFIG, 0)
    with pytest.raises(ValueError, match="params are not views"):
        memt.flat({})
    for dtype in (int, np.float16, "float33"):
        with pytest.raises(ValueError, match="must be float32 or float64"):
            memt.init_params(CONFIG, np.random.default_rng(0), dtype)
    logits, cache = memt.model_forward(PARAMS, np.zeros((2, 4), int), CONFIG)
    with pytest.raises(ValueError, match=r"dlogits.*\(4, 2, 6\).*\(2, 4, 6\)"):
        memt.model_backward(logits.swapaxes(0, 1), cache)
