"""The experiments: shapes, lesions, counted compute, restart after a kill, bad input."""

import experiments  # noqa: F401, I001 (first: it asks for one BLAS thread)

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import memt
from experiments import attention, benefit, common, hops, lesions, shapes, text
from memt import Config

# ---------------------------------------------------------------- shapes


def bell(rows, columns, width):
    return np.exp(-((shapes.off_diagonal(rows, columns) / width) ** 2) / 2)


def pure(name, rng):
    """A random map (rows, columns) of a shape, made without the scores' own templates."""
    rows, columns = rng.integers(8, 25, size=2)
    if "diagonal" in name:
        i = np.arange(rows)
        j = np.floor((i + 0.5) * columns / rows).astype(int)
        block = np.zeros((rows, columns))
        for shift in range(-6, 7) if name == "blurred diagonal" else [0]:
            weight = rng.uniform(0.8, 1.2, rows) * np.exp(-((shift / rng.uniform(1.2, 2)) ** 2) / 2)
            ok = (j + shift >= 0) & (j + shift < columns)
            block[i[ok], (j + shift)[ok]] += weight[ok]
        return block[:, ::-1] if name == "anti-diagonal" else block
    chosen = rng.choice(columns, rng.integers(1, 4), replace=False)
    block = np.zeros((rows, columns))
    block[:, chosen] = rng.uniform(0.5, 1.5, (rows, len(chosen)))
    return block if name == "vertical stripe" else block.T


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_shapes_are_found_in_noise_of_the_same_weight(name):
    rng = np.random.default_rng(0)
    blocks = [pure(name, rng) for _ in range(200)]
    noise = [rng.random(block.shape) for block in blocks]
    mixed = [b / b.sum() + x / x.sum() for b, x in zip(blocks, noise, strict=True)]
    assert np.mean([shapes.name(block) == name for block in mixed]) >= 0.95


def softmax(x):
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


RANDOM = {
    "constant": lambda rng, size: np.full(size, 1 / size[1]),
    "uniform": lambda rng, size: rng.random(size),
    "dirichlet 1": lambda rng, size: rng.dirichlet(np.ones(size[1]), size[0]),
    "dirichlet 0.1": lambda rng, size: rng.dirichlet(np.full(size[1], 0.1), size[0]),
    "softmax 1": lambda rng, size: softmax(rng.standard_normal(size)),
    "softmax 3": lambda rng, size: softmax(3 * rng.standard_normal(size)),
    "gamma": lambda rng, size: rng.gamma(0.3, size=size),
}


@pytest.mark.parametrize("sizes", ((2, 8), (8, 25)))
@pytest.mark.parametrize("kind", RANDOM)
def test_random_maps_have_no_shape(kind, sizes):
    rng = np.random.default_rng(0)
    blocks = [RANDOM[kind](rng, rng.integers(*sizes, size=2)) for _ in range(500)]
    assert np.mean([shapes.name(block) != "none" for block in blocks]) <= 0.05


# ---------------------------------------------------------------- reading a map

CONFIG = Config(variant="memtransformer", width=8, heads=2, hidden=16, memory=5)


def model(config=CONFIG, n=6):
    rng = np.random.default_rng(1)
    return memt.init_params(config, rng), rng.integers(10, size=(3, 2 * n))


def test_the_order_of_memory_tokens_changes_no_sorted_map():
    params, tokens = model()
    maps, roads = attention.look(params, CONFIG, tokens, 6)
    shuffled = {**params, "memory": params["memory"][[3, 0, 4, 1, 2]]}
    again, roads_again = attention.look(shuffled, CONFIG, tokens, 6)
    np.testing.assert_allclose(again, maps, atol=1e-6)
    np.testing.assert_allclose(roads_again[0], roads[0], atol=1e-6)


def test_of_the_sequence_rows_only_the_slots_count():
    """Rows of READ all sum to 1: those of the symbols must not be taken because of rounding."""
    weights = np.zeros((30, 30))
    weights[:10, 10:20] = 0.1
    weights[10:20, :10] = 0.1001
    weights[20:, :10] = np.eye(10)[::-1]
    config = memt.Config(memory=10)
    assert attention.shape(weights, "READ", 10, 10) == "anti-diagonal"
    title = attention.panel_title(weights, attention.uniform(config, 20), 10, 10)
    assert title == "WRITE 100 %\nREAD: anti-diagonal"


@pytest.mark.parametrize("variant", ("memtransformer", "masked", "membottleneck"))
def test_shares_add_up_and_zero_queries_attend_evenly(variant):
    config = Config(variant=variant, width=8, heads=2, hidden=16, memory=5)
    params, tokens = model(config)
    for name, p in params.items():
        p[...] *= not name.endswith("wq")
    maps, _ = attention.look(params, config, tokens, 6)
    even = attention.shares(attention.uniform(config, 12), 5)
    for name, share in attention.shares(maps[0, 0], 5).items():
        assert share == pytest.approx(even[name], abs=1e-6)
    assert even["PROCESS"] + even["WRITE"] == pytest.approx(1)
    assert even["READ"] + even["ORDINARY"] == pytest.approx(1)


def test_the_road_of_a_known_permutation():
    config = Config(variant="membottleneck", width=8, heads=2, hidden=16, memory=4, layers=1)
    maps = np.zeros((1, 1, 2, 8, 8))
    written, wanted = np.array([2, 0, 3, 1]), np.array([1, 2, 3, 0])  # not its own inverse
    maps[..., np.arange(4), 4 + written] = 1  # memory token m writes position written[m]
    maps[..., 4 + np.arange(4), np.argsort(written)[wanted]] = 1
    np.testing.assert_array_equal(attention.road(maps, config, 0), np.eye(4)[wanted])
    plain = replace(config, variant="memtransformer")
    assert attention.road(maps, plain, 0) is None


# ---------------------------------------------------------------- lesions


@pytest.mark.parametrize("variant", lesions.VARIANTS)
def test_a_lesion_that_keeps_every_token_changes_nothing(variant):
    config = Config(variant=variant, width=8, heads=2, hidden=16, memory=5)
    params, tokens = model(config)
    logits, _ = memt.model_forward(params, tokens, config)
    kept, same = lesions.keep(params, config, np.array([4, 2, 0, 1, 3]))
    for hurt in (kept, lesions.exchange(params, np.arange(5), params["memory"])):
        np.testing.assert_array_equal(memt.model_forward(hurt, tokens, same)[0], logits)
    before = params["memory"].copy()
    lost, smaller = lesions.keep(params, config, np.array([2, 0]))
    assert smaller.memory == 2
    assert abs(memt.model_forward(lost, tokens, smaller)[0] - logits).max() > 1e-3
    lesions.exchange(params, np.array([1]), np.zeros(8))
    np.testing.assert_array_equal(params["memory"], before)


def test_use_is_the_weight_that_the_sequence_gives():
    for variant, even in (("memtransformer", 1 / 17), ("membottleneck", 1 / 5)):
        config = replace(CONFIG, variant=variant)
        params, tokens = model(config)
        assert lesions.use(params, config, tokens).std() > 1e-3
        for name, p in params.items():
            p[...] *= not name.endswith("wq")
        np.testing.assert_allclose(lesions.use(params, config, tokens), even, rtol=1e-5)


# ---------------------------------------------------------------- counted compute, tasks, text


class Counted(np.ndarray):
    """Counts the operations of matrix products, means over the last axis left out."""

    total = 0

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        args = [np.asarray(x) if isinstance(x, np.ndarray) else x for x in args]
        out = getattr(ufunc, method)(*args, **kwargs)
        if ufunc is np.matmul and out.shape[-1] > 1:
            Counted.total += 2 * out.size * args[0].shape[-1]
        return out.view(Counted) if isinstance(out, np.ndarray) else out


@pytest.mark.parametrize("M", (0, 5))
def test_flops_are_those_that_the_model_does(M):
    config = replace(CONFIG, variant="memtransformer" if M else "transformer", memory=M, layers=3)
    params, tokens = model(config)
    Counted.total = 0
    counted = {name: p.view(Counted) for name, p in params.items()}
    memt.model_forward(counted, tokens, config, np.arange(4, 9))
    assert Counted.total == len(tokens) * common.flops(config, tokens.shape[1], 5)
    assert common.size(config) == memt.flat(params).size


def test_tasks_by_hand():
    x = np.array([[3, 1, 3, 9, 3, 0, 1, 2, 2, 5]])
    want = {
        "sort": [0, 1, 1, 2, 2, 3, 3, 3, 5, 9],
        "rank": [5, 1, 5, 9, 5, 0, 1, 3, 3, 8],
        "occurs": [2, 1, 2, 0, 2, 0, 1, 1, 1, 0],
        "add mode": [6, 4, 6, 2, 6, 3, 4, 5, 5, 8],
        "add kinds": [9, 7, 9, 5, 9, 6, 7, 8, 8, 1],
        "add sum": [2, 0, 2, 8, 2, 9, 0, 1, 1, 4],
    }
    assert {name: task(x)[0].tolist() for name, task in benefit.TASKS.items()} == want


def test_matched_baselines_have_at_least_as_much():
    models = {
        name: Config(width=16, memory=10 if name == "memtransformer" else 0, **own)
        for name, own in benefit.matched().items()
    }
    ours = models["memtransformer"]
    for name, count in (
        ("parameters", common.size),
        ("compute", lambda c: common.flops(c, 20, 10)),
    ):
        wide, narrower = models[name], replace(models[name], hidden=models[name].hidden - 1)
        assert count(narrower) < count(ours) <= count(wide)


def test_blanks_hide_what_is_asked():
    x = np.arange(20).reshape(2, 10)
    tokens, targets = text.blank(x, np.array([1, 7]), 99)
    assert tokens[:, [1, 7]].tolist() == [[99, 99], [99, 99]]
    assert targets.tolist() == [[1, 7], [11, 17]]
    assert (tokens != x).sum() == 4


def test_a_uniform_model_takes_log2_of_the_symbols():
    ids = np.random.default_rng(0).integers(8, size=1000)
    config = Config(symbols=8, variant="transformer", memory=0, width=8, heads=2, hidden=16)
    params = memt.init_params(config, np.random.default_rng(0))
    params["out_w"][...] = 0
    assert text.held_out(params, ids, config) == pytest.approx(3, abs=1e-5)


def test_intervals():
    assert common.interval(np.array([1.0, 2, 3, 4, 5])) == pytest.approx(1.9634, abs=1e-3)
    assert np.isnan(common.interval(np.array([1.0])))


def test_reach_needs_two_masked_layers():
    for layers, want in ((1, 0), (2, 1)):
        s = common.Settings(**common.toy_job("masked", layers=layers, steps=1))
        assert hops.reach(common.train_toy.start(s).params, s) == want


# ---------------------------------------------------------------- commands

ROOT = Path(__file__).parent.parent


def command(name, *options, **more):
    line = [sys.executable, "-m", f"experiments.{name}", *map(str, options)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, **more)


def rows_of(path):
    rows = common.read_rows(path)
    return sorted(tuple(v for k, v in row.items() if k != "seconds") for row in rows)


def test_a_killed_run_started_again_ends_with_the_same_rows(tmp_path):
    whole, torn = tmp_path / "new" / "whole", tmp_path / "torn"
    options = ("--quick", "--seeds", "0", "--jobs", "2")
    assert command("capacity", *options, "--out", whole).returncode == 0
    line = [sys.executable, "-m", "experiments.capacity", *options, "--out", str(torn)]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        run.stdout.readline()
        run.kill()
    some = rows_of(torn / "capacity.csv")
    again = command("capacity", *options, "--out", torn)
    assert again.returncode == 0, again.stderr
    all_rows = rows_of(whole / "capacity.csv")
    assert 0 < len(some) < len(all_rows) == 4
    assert rows_of(torn / "capacity.csv") == all_rows
    assert (torn / "capacity.png").stat().st_size > 10_000
    assert f"run 1/{len(all_rows) - len(some)} " in again.stdout


BAD = {
    "seeds": (("variants", "--seeds", "4-0"), "'4-0': must be a range"),
    "jobs": (("variants", "--jobs", "0"), "'0': must be a whole number"),
    "csv": (("variants", "--quick", "--out", "OUT"), "not a CSV of this experiment"),
    "empty": (("text", "--text", "EMPTY"), "has 0 characters: must have at least 640"),
    "binary": (("text", "--text", "BINARY"), "is not text"),
    "absent": (("text", "--text", "nowhere.txt"), "nowhere.txt"),
    "model": (("attention", "BINARY"), "is not a readable .npz"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_line(case, tmp_path):
    (tmp_path / "variants.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    places = {"OUT": tmp_path, "EMPTY": tmp_path / "empty", "BINARY": tmp_path / "binary"}
    line, message = BAD[case]
    done = command(*(places.get(word, word) for word in line))
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_append_keeps_lists_and_nothing(tmp_path):
    path = tmp_path / "x.csv"
    common.append_row(path, {"seed": 0, "window": None, "curve": [0.5, 1 / 3]})
    common.append_row(path, {"seed": 1, "window": 3, "curve": [1.0, 0.25]})
    rows = common.read_rows(path)
    assert [row["window"] for row in rows] == ["", "3"]
    np.testing.assert_allclose(common.numbers(rows, "curve"), [[0.5, 0.333333], [1, 0.25]])


def test_seeds_that_lack_a_run_are_not_drawn():
    jobs = [{"M": M, "seed": 0} for M in (1, 2)]
    rows = [{"M": M, "seed": s} for M, s in ("20", "10", "21", "11", "12", "30")]
    want = [{"M": "1", "seed": "0"}, {"M": "2", "seed": "0"}]
    want += [{"M": "1", "seed": "1"}, {"M": "2", "seed": "1"}]
    assert common.complete(rows, jobs) == want


def test_what_windows_reach():
    reached = [benefit.in_reach(*case) for case in ((1, 2), (3, 2), (3, 3), (9, 3))]
    assert reached == pytest.approx([19, 37, 55, 100])


def test_verdicts_on_text():
    low, high = np.array([1.0, 1.1, 1.2]), np.array([5.0, 5.1, 5.2])
    bits = {("", "steps", "0"): high, ("", "steps", "2"): low, ("", "steps", "8"): high + 0.1}
    assert text.verdict(bits, "", "steps") == "bits -78.4 % (M = 2), intervals apart"
    assert text.clear(bits) == (1, 0, 2)
    assert text.clear({**bits, ("", "steps", "0"): low, ("", "steps", "2"): high}) == (0, 2, 2)
