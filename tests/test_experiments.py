"""The experiments: what is run, measured, drawn and found; the CSVs; the commands.

`python -m tests.test_experiments` writes golden_experiments.txt anew: what every picture shows and
every finding says of made-up rows. Read its diff before you keep it.
"""

import argparse
import collections
import concurrent.futures
import functools
import hashlib
import importlib
import itertools
import math
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

import memt
import train_toy
from experiments import animation, architectures, claims, common
from memt import Config

from .support import random_case, random_params

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).with_name("golden_experiments.txt")
EXPERIMENTS = {name: importlib.import_module(f"experiments.{name}") for name in claims.names()}
attention, benefit, capacity = (EXPERIMENTS[n] for n in ("attention", "benefit", "capacity"))
cost, hops, lesions = (EXPERIMENTS[n] for n in ("cost", "hops", "lesions"))
learning, text, variants = (EXPERIMENTS[n] for n in ("learning", "text", "variants"))
counting, scratch = EXPERIMENTS["counting"], EXPERIMENTS["scratch"]
CONFIG = Config(variant="memtransformer", width=8, heads=2, hidden=16, memory=5)
ARGS = argparse.Namespace(seeds=range(5), quick=False, text=text.OWN, out=None)
QUICK = argparse.Namespace(seeds=range(1), quick=True, text=text.OWN, out=None)


def with_seeds(seeds):
    return argparse.Namespace(**{**vars(ARGS), "seeds": seeds})


def small(variant="membottleneck", **given):
    own = {"length": 3, "symbols": 3, "memory": 4, "width": 16, "heads": 2, "hidden": 32}
    return common.toy_job(variant, **own | {"layers": 1, "steps": 5} | given)


def case(config):
    """Random params; tokens (3, 12)."""
    return random_case(config, np.random.default_rng(1), batch=3, length=12)[:2]


def untrained(job):
    """In place of common.train: a random model, and an invented log."""
    s = train_toy.default_settings(**job)
    state = train_toy.start(s)
    params = random_params(s.config, np.random.default_rng(1), np.float32)
    state.vectors["params"] = memt.flat(params)
    state.step, state.log = 75, [(25, 0, 0, 0.5), (50, 0, 0, variants.GOAL), (75, 0, 0, 0.6)]
    return s, state


# ---------------------------------------------------------------- jobs, pictures, findings
@pytest.fixture
def same_text(monkeypatch):
    """The committed text's hash, and as many symbols, on any Python."""
    letters = "".join(map(chr, range(200, 303)))
    monkeypatch.setattr(text, "read_text", lambda name: (letters, "2a95af4ac93f"))
    monkeypatch.setattr(text.platform, "python_version", lambda: "3.11.7")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_committed_csv_has_every_job_and_nothing_else(name, same_text):
    module = EXPERIMENTS[name]
    rows = common.read_rows(ROOT / "figures" / f"{name}.csv", module.FOUND)
    seeds = {int(row["seed"]) for row in rows}
    assert seeds >= {*range(5)}
    jobs = [job for seed in sorted(seeds) for job in module.jobs(with_seeds([seed]))]
    quick = module.jobs(QUICK)
    kept = sorted(common.key(row, jobs[0]) for row in rows)
    assert kept == sorted(common.key(job, job) for job in jobs), f"python -m experiments.{name}"
    assert (ROOT / "figures" / f"{name}.png").stat().st_size > 10_000
    assert len(quick) < 70 and max(job.get("steps", 1) for job in quick) <= 50


def made_up(name):
    """Rows of three seeds in any order, all results different; lists as long as in the CSV."""
    module, rng, rows = EXPERIMENTS[name], np.random.default_rng(0), []
    committed = common.read_rows(ROOT / "figures" / f"{name}.csv", module.FOUND)
    assert committed, f"there is no CSV yet: python -m experiments.{name}"
    special = {
        "goal": lambda: rng.choice([None, 25 * rng.integers(1, 40)], p=[0.2, 0.8]),
        "path_shape": lambda: rng.choice(["anti-diagonal", "sharp diagonal"]),
        "with_shape": lambda: rng.integers(8),
        "heads_total": lambda: 8,
    }

    def result(column):
        if column in special:
            return special[column]()
        length = len(committed[0][column].split())
        return rng.random() if length == 1 else rng.random(length).tolist()

    for job in module.jobs(with_seeds((2, 10, 3))):
        found = {column: result(column) for column in module.FOUND}
        rows.append({name: common.cell(value) for name, value in {**job, **found}.items()})
    return common.complete([rows[i] for i in rng.permutation(len(rows))], module.jobs(ARGS))


def short(values, digits=4):
    return " ".join(f"{value:.{digits}g}" for value in np.ravel(np.asarray(values, float)))


def describe(axes):
    """What a panel says, as lines of text."""
    limits = short([axes.get_xlim(), axes.get_ylim()]), axes.get_xscale(), axes.get_yscale()
    lines = [f"- {axes.get_title()!r}, {axes.get_xlabel()!r}, {axes.get_ylabel()!r}, {limits}"]
    ticks = [t.get_text() for t in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    lines += [f"  ticks {' '.join(ticks)}"] if axes.lines else []
    for line in axes.lines:
        style = line.get_label(), line.get_color(), line.get_marker(), line.get_linestyle()
        lines.append(f"  line {style} {short(line.get_xdata())}: {short(line.get_ydata())}")
    for found in axes.collections:
        spans = [(path.vertices.min(0), path.vertices.max(0)) for path in found.get_paths()]
        band = short(found.get_paths()[0].vertices[:, 1]) if len(spans) == 1 else ""
        lines.append(f"  spans {found.get_label()} {short(spans)} {band}")
    for bar in axes.patches:
        lines.append(f"  bar {short(bar.get_bbox().extents)} {bar.get_facecolor()}")
    lines += [f"  text {t.get_text()!r} {short(t.get_position())}" for t in axes.texts]
    lines += [f"  image {short(np.mean(i.get_array(), axis=0), 2)}" for i in axes.images]
    legend = axes.get_legend()
    return lines + ([f"  legend {[t.get_text() for t in legend.get_texts()]}"] if legend else [])


def made_up_maps(*_):
    """In place of attention.look: one head of layer 2, and the path through it, give the answer."""
    rng, order = np.random.default_rng(0), np.random.default_rng(1).permutation(10)
    maps, path = rng.random((2, 4, 30, 30)), rng.random((2, 20, 10, 20))
    maps[1, 2, :10, 10:20] += 99 * np.eye(10)[order]
    maps[1, 2, 20:, :10] += 99 * np.eye(10)[::-1, order]
    path[1, 10:, 4, :10] += 99 * np.eye(10)[::-1]
    return maps / maps.sum(axis=-1, keepdims=True), dict(enumerate(path / 1000))


def golden(name, patch):
    """The picture and the findings of made-up rows; of the animation, a frame."""
    if name == "animation":
        figure, scene = Figure(), [np.eye(4)[:3], np.eye(4)[:, :2], np.eye(3)]
        animation.draw_frame(figure, "title", (2, 1), scene, [4, 5], [4, 4], [5, 4])
        lines = [f"== {name}", *(f"{t.get_text()} {t.get_color()}" for t in figure.texts)]
    else:
        figures, rows = [], made_up(name)
        patch.setattr(common, "save", lambda *given: figures.append(given))
        patch.setattr(common, "train", untrained)
        patch.setattr(attention, "look", made_up_maps)
        patch.setattr(train_toy, "draw_map", lambda axes, weights, M, n: axes.imshow(weights))
        EXPERIMENTS[name].draw(rows, Path())
        ((figure, path),) = figures
        assert path == Path(f"{name}.png")
        lines = [f"== {name}", *(" | ".join(row) for row in EXPERIMENTS[name].finding(rows))]
        lines += [figure.get_suptitle(), figure.get_supxlabel()]
        if hasattr(EXPERIMENTS[name], "details"):
            lines += filter(None, EXPERIMENTS[name].details(rows).split("\n"))
    if name == "attention":
        table = attention.table(train_toy.Settings(), *made_up_maps())
        lines += [line for line in table.split("\n") if line]
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    return "\n".join([*lines, *(line for axes in panels for line in describe(axes))])


@pytest.mark.parametrize("name", [*EXPERIMENTS, "animation"])
def test_pictures_and_findings_of_made_up_rows(name, same_text, monkeypatch):
    kept = {t.split("\n", 1)[0]: t for t in GOLDEN.read_text(encoding="utf-8").split("\n\n")}
    assert golden(name, monkeypatch) == kept[f"== {name}"].rstrip("\n")


VERDICTS = """
capacity  | shown     | symbol: float(memory > 1)
capacity  | not shown | symbol: 0.5 if variant == "masked" else memory / 20
capacity  | shown     | symbol: float(memory == 16)
learning  | shown, not shown | taken: 100 if recipe == "Muon recipe" else 200
learning  | not shown, shown | taken: 200 if recipe.endswith("recipe") else 100
recipes   | shown     | taken: 100 if optimizer == "muon" else 200
recipes   | not shown | taken: (3000 if symbols == 30 else 100) if optimizer == "muon" else 200
counting  | shown, shown, shown, shown | accuracy: 0.9 if memory else 0.3
counting  | not shown, not shown, not shown, not shown | \
accuracy: 0.9 if blanks or layers > 1 else 0.7
counting  | not shown, not shown, not shown, shown | \
accuracy: 0.1 * (memory > 1) + 0.5 * (layers > 1)
counting  | shown, shown, shown for follows against M = 0, shown for follows against M = 0 | \
accuracy: memory * (positions + task != "Trueoccurs")
scratch   | shown, shown | accuracy: 0.9 if "biased" in model else 0.5
scratch   | shown for parity, not shown | accuracy: (task == "parity") * (model != "M = 0")
scratch   | not shown, shown | accuracy: float(model != "M = 24")
hops      | shown     | symbol: float(variant == "membottleneck" or layers > 1)
hops      | not shown | symbol: float(layers > 1)
hops      | not shown | symbol: float(variant == "membottleneck")
lesions   | shown     | matrix: [0.2, 0] if variant == "membottleneck" else [0, 0.1]
lesions   | not shown | matrix: [0, 0.1] if variant == "membottleneck" else [0.2, 0]
variants  | shown     | goal: 900 if variant == "membottleneck" else 100
variants  | not shown | goal: 100
variants  | not shown | goal: dict(membottleneck=900, masked=None).get(variant, 100)
attention | shown     | path: 0.5; beside: 0.1; path_shape: ANSWERS[task]
attention | not shown | path: 0.1; beside: 0.1; path_shape: ANSWERS[task]
attention | not shown | path: 0.5; beside: 0.1; path_shape: "none"
benefit   | shown, not shown | symbol: memory / 20 if window else 0.5
benefit   | shown for window 3, not shown | symbol: float(memory == 10 and window == 3)
benefit   | not shown, shown for sort | symbol: float(task == "sort" and memory == 10)
text      | not shown, shown | bits: memory * (-1 if window else 1)
text | not shown, shown for equal steps | bits: -memory * bool(window and budget == "steps")
translation | shown     | exact: memory / 8
translation | shown for 250 steps | exact: memory / 8 if steps == 250 else 0.5
cost      | shown     | ms: T**kind; MB: T**kind
cost      | not shown | ms: T**kind; MB: T
cost      | not shown | ms: T**(kind + 0.2); MB: T**kind
"""


@pytest.mark.parametrize("case", VERDICTS.strip().split("\n"))
def test_verdicts(case, same_text):
    name, verdicts, changes = (part.strip() for part in case.split("|"))
    rows = made_up(name)
    for row in rows:
        names = {n: int(v) if v.isdigit() else v for n, v in row.items()}
        names["kind"] = 1 if row.get("variant") == "membottleneck" else 2
        for change in changes.split("; "):
            column, value = change.split(": ", 1)
            row[column] = common.cell(eval(value, vars(attention) | names))
    found = EXPERIMENTS[name].finding(rows)
    assert ", ".join(verdict for *_, verdict in found) == verdicts


def test_the_least_gain():
    """The smallest mean of those that are not clearly above 0; the verdict names those that are."""
    gains = {"a": np.array([4.0, 5, 6]), "b": np.array([2.0, 16, -3]), "c": np.array([2.0, 4, 3])}
    weakest = "5.0 ± 24.5 points in the weakest case (b)"
    assert common.least(gains) == (weakest, "shown for a, c")
    assert common.least({"b": gains["b"]}) == (weakest, "not shown")
    assert common.least({"a": gains["a"], "c": gains["c"]})[0].endswith("(c)")


def test_intervals():
    angle = np.linspace(0, np.pi / 2, 200_001)
    for df, t in enumerate(common.T_QUANTILES, 1):  # t = √df tan θ makes the density a power of cos
        share = np.cumsum(np.cos(angle) ** (df - 1))
        at = [np.searchsorted(angle, math.atan(x / df**0.5)) for x in (t - 0.002, t + 0.002)]
        assert share[at[0]] < 0.95 * share[-1] < share[at[1]]
    five = np.array([1.0, 2, 3, 4, 5])
    assert common.interval(five) == pytest.approx(2.776 * 2.5**0.5 / 5**0.5)
    assert common.interval(np.arange(20.0)) == pytest.approx(2.228 * 35**0.5 / 20**0.5)
    assert math.isnan(common.interval(five[:1])) and common.spread(five, 2) == "3.00 ± 1.96"
    assert [common.clear(five + shift) for shift in (0, -2, -6)] == [1, 0, -1]


# ---------------------------------------------------------------- maps, shapes, paths
def noisy(name, rng, size):
    """A random map: half a shape, made without the scores' own templates, half noise."""
    (rows, columns), noise = size, rng.random(size)
    block, i = np.zeros(size), np.arange(rows)
    if "diagonal" in name:
        j = np.floor((i + 0.5) * columns / rows).astype(int)
        for shift in range(-6, 7) if name == "blurred diagonal" else [0]:
            weight = rng.uniform(0.8, 1.2, rows) * np.exp(-((shift / rng.uniform(1.2, 2)) ** 2) / 2)
            ok = (j + shift >= 0) & (j + shift < columns)
            block[i[ok], (j + shift)[ok]] += weight[ok]
        block = block[:, ::-1] if name == "anti-diagonal" else block
    else:
        lines = block.T if name == "vertical stripe" else block
        chosen = rng.choice(len(lines), rng.integers(1, 4), replace=False)
        lines[chosen] = rng.uniform(0.5, 1.5, lines[chosen].shape)
    return block / block.sum() + noise / noise.sum()


SHAPELESS = (
    lambda rng, size: np.full(size, 1 / size[1]),
    lambda rng, size: rng.random(size),
    lambda rng, size: rng.dirichlet(np.full(size[1], 0.1), size[0]),
    lambda rng, size: memt.softmax_forward(3 * rng.standard_normal(size))[0],
    lambda rng, size: 1 + 0.2 * np.eye(*size),
)


@pytest.mark.parametrize("name", [*sorted({name for name, _ in attention.SHAPES}), "none"])
def test_shapes_are_found_in_noise_of_the_same_weight_but_not_in_noise_alone(name):
    rng = np.random.default_rng(0)
    for make in SHAPELESS if name == "none" else [functools.partial(noisy, name)]:
        found = [attention.shape(make(rng, rng.integers(8, 25, size=2))) for _ in range(200)]
        assert found.count(name) >= 190


def test_shapes_by_hand():
    assert attention.diagonal(2, 4, 0).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    bell = attention.diagonal(8, 8, 1.5)[0, :3]
    np.testing.assert_allclose(bell, np.exp([0, -0.5 / 1.5**2, -0.5 * 4 / 1.5**2]))
    found = [attention.shape(attention.diagonal(*size, 0)) for size in ((8, 8), (7, 8), (8, 7))]
    assert found == ["sharp diagonal", "none", "none"]
    clear, faint = (np.eye(12) + x * np.roll(np.eye(12), 6, axis=1) for x in (1.15, 1.25))
    assert (attention.shape(clear), attention.shape(faint)) == ("sharp diagonal", "none")


def test_of_the_sequence_rows_only_the_slots_count():
    weights = np.zeros((30, 30))
    weights[:10, :10] = np.arange(10) == 3
    weights[:10, 10:20], weights[10:20, :10] = 0.1, 0.1001
    weights[20:, :10], weights[20:, 10:20] = np.eye(10)[::-1], 0.3
    weights[20:, 20:] = 2 * np.eye(10)
    want = {"PROCESS": "vertical stripe", "WRITE": "none", "READ": "anti-diagonal"}
    assert attention.block_shapes(weights, 10, 10) == want | {"seq to seq": "none"}
    weights[20:, 20:] *= 2
    assert attention.block_shapes(weights, 10, 10)["seq to seq"] == "sharp diagonal"


@pytest.mark.parametrize("variant", ("memtransformer", "masked", "membottleneck"))
def test_shares_of_a_uniform_map(variant):
    uniform = attention.uniform(replace(CONFIG, variant=variant), 12)
    read = 5 / 17 if variant == "memtransformer" else 1
    want = {"PROCESS": 5 / 17, "WRITE": 12 / 17, "READ": read, "seq to seq": 1 - read}
    assert attention.shares(uniform, 5) == pytest.approx(want, abs=1e-6)
    assert list(attention.shares(uniform[5:, 5:], 0)) == ["seq to seq"]


@pytest.mark.parametrize(("variant", "layers"), (("membottleneck", [0, 1]), ("masked", [0])))
def test_paths_are_the_mean_of_products_not_the_product_of_means(variant, layers, monkeypatch):
    monkeypatch.setattr(train_toy, "CHUNK", 2)
    config = replace(CONFIG, variant=variant)
    params, tokens = case(config)
    maps = memt.attention_maps(memt.model_forward(params, tokens, config)[1]).mean(axis=2)
    found = attention.paths(params, config, tokens)
    assert list(found) == layers
    for layer, path in found.items():
        parts = [(maps[1, b, 5:, :5], maps[layer, b, :5, 5:]) for b in range(3)]
        want = np.mean([read[:, :, None] * write for read, write in parts], axis=0)
        np.testing.assert_allclose(path, want, atol=1e-6)


def test_weight_on_the_answer_and_the_order_of_memory():
    s, path = train_toy.Settings(length=4), np.zeros((8, 2, 8))
    path[4:, 0, :4] = [[0, 1, 2, 30], [0, 1, 20, 0], [1, 10, 0, 0], [8, 0, 1, 3]]
    assert attention.on_answer(s, path) == (17, 0.75)
    maps = np.full((1, 1, 13, 13), 0.01)
    maps[0, 0, [0, 1, 2], [4, 3, 6]] = 1  # they write symbols 1, 0, 3
    assert attention.written_order(maps, 3, 5).tolist() == [1, 0, 2]
    found = attention.sort_memory(np.arange(16).reshape(4, 4), np.array([1, 0, 2]))
    assert found.tolist() == [[5, 4, 6, 7], [1, 0, 2, 3], [9, 8, 10, 11], [13, 12, 14, 15]]


# ---------------------------------------------------------------- runs in miniature
def test_runs_report_what_the_model_does(monkeypatch):
    monkeypatch.setattr(common, "train", untrained)
    s, state = untrained(small())
    batch = train_toy.make_batch(s, 1000, train_toy.TEST)
    logits, _ = memt.model_forward(state.params, batch.tokens, s.config, batch.at)
    right = logits.argmax(axis=2) == batch.targets
    want = {"taken": 75, "symbol": right.mean(), "exact": right.all(axis=1).mean()}
    want["tested_on"] = 1000
    assert 0 < want["exact"] < want["symbol"] < 1
    assert capacity.run(small()) == pytest.approx(want)
    assert hops.run(small()) == pytest.approx(want | {"reach": 1})
    assert hops.run(small(variant="masked"))["reach"] == 0
    flops = {"flops": common.flops(s.config, 6, 3)}
    assert benefit.run(small()) == pytest.approx(want | flops)
    assert variants.run(small()) == want | {"goal": 50}


def test_attention_counts_the_heads_and_takes_the_better_path(monkeypatch):
    maps, paths = np.zeros((1, 3, 30, 30)), {i: np.zeros((20, 1, 20)) for i in range(3)}
    maps[0, 0, 20:, :10] = maps[0, 2, :10, 10:20] = np.eye(10)[::-1]
    paths[0][10:, 0, :10], paths[1][10:, 0, :10] = np.eye(10), np.eye(10)[::-1]
    monkeypatch.setattr(common, "train", untrained)
    monkeypatch.setattr(attention, "look", lambda s, params: (maps, paths))
    found = [*attention.run(common.toy_job("membottleneck")).values()]
    assert found[-5:] == [1, 0, "anti-diagonal", 2, 3]


@pytest.mark.parametrize("variant", lesions.VARIANTS)
def test_a_removed_token_is_one_that_nothing_attends_to(variant):
    config = replace(CONFIG, variant=variant)
    params, tokens = case(config)
    targets = np.random.default_rng(2).integers(10, size=(3, 6))
    padding = np.random.default_rng(3).random((3, 1, 17)) < np.where(np.arange(17) < 5, 1, 0.5)
    padding[..., 1] = False  # a memory token that nothing attends to
    for given in (None, padding):
        batch = train_toy.Batch(tokens, targets, slice(6, 12), given)
        matrix = train_toy.lesion_matrix(params, config, batch)
        for token in range(5):
            mask = (np.arange(17)[None, None] != token) & (True if given is None else given)
            logits, _ = memt.model_forward(params, tokens, config, slice(6, 12), mask)
            wrong = (logits.argmax(axis=2) != targets).mean(axis=0)
            np.testing.assert_allclose(matrix[token], wrong)


def test_one_token_lost_is_the_mean_of_the_lesion_matrix(monkeypatch):
    s, state = common.train(small(steps=70))
    batch, rng = train_toy.make_batch(s, 500, train_toy.TEST), np.random.default_rng([0, 4])
    monkeypatch.setattr(common, "train", lambda job: (s, state))
    found, model = lesions.run(small()), (state.params, s.config, batch)
    each_first = [lesions.removed(*model, np.roll(np.arange(4), -token)) for token in range(4)]
    whole, one_lost, _, last = np.transpose(each_first)
    matrix = np.reshape(found["matrix"], (4, 3))
    assert matrix.std(axis=0).max() > 0.1 and found["lesioned_on"] == 500
    np.testing.assert_allclose(one_lost, 1 - matrix.mean(axis=1))
    np.testing.assert_allclose(whole, train_toy.evaluate(*model).symbol)
    alone = train_toy.evaluate(*train_toy.without(*model[:2], [0, 1, 2]), batch).symbol
    assert last[0] == alone
    random = [lesions.removed(*model, rng.permutation(4)) for _ in range(3)]
    np.testing.assert_allclose(found["removed"], np.mean(random, axis=0))


def test_cost_is_the_median_time_and_the_peak(monkeypatch):
    clock = iter(np.cumsum([0, 0.1, 0, 0.2, 0, 0.3, 0, 0.01, 0, 0.02]))
    job = cost.jobs(QUICK)[0] | {"variant": "membottleneck"}
    config, tokens = cost.config_of(job), np.zeros((1, 64), int)
    cost.tracemalloc.start()
    cache = memt.model_forward(memt.zero_params(config), tokens, config, slice(32, 64))
    kept = cost.tracemalloc.get_traced_memory()[0]
    cost.tracemalloc.stop()
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    step, steps = memt.loss_and_grads, []
    monkeypatch.setattr(memt, "loss_and_grads", lambda *given: steps.append(step(*given)))
    found = cost.run(job)
    assert cache and len(steps) == 6
    assert found["ms"] == pytest.approx(100) and kept < 1e6 * found["MB"] < 5 * kept
    assert config == Config(10, 32, 2, 128, 2, 8) and cost.config_of(cost.jobs(ARGS)[0]).memory == 0


@pytest.mark.parametrize(
    "lengths, times, exponent",
    [((64, 256, 512, 1024), (99, 1, 4, 16), 2), ((32, 64, 128), (99, 1, 2), 1)],
)
def test_exponents_are_those_of_the_long_sequences(lengths, times, exponent):
    """From 256 on; if there are fewer than two such lengths, of the last two."""
    of = {"variant": "transformer", "seed": "0"}
    rows = [of | {"T": str(T), "ms": str(x)} for T, x in zip(lengths, times, strict=True)]
    assert cost.exponent(rows, "transformer", "ms") == pytest.approx(exponent)


class Counted(np.ndarray):
    """Counts the operations of matrix products, without sums over the last axis."""

    total = 0

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        args = [np.asarray(x) if isinstance(x, np.ndarray) else x for x in args]
        out = getattr(ufunc, method)(*args, **kwargs)
        if ufunc is np.matmul and out.shape[-1] > 1:
            Counted.total += 2 * out.size * args[0].shape[-1]
        return out.view(Counted) if isinstance(out, np.ndarray) else out


@pytest.mark.parametrize("variant", cost.VARIANTS)
def test_flops_are_those_that_the_model_does(variant):
    memory = 0 if variant == "transformer" else 5
    config = replace(CONFIG, variant=variant, memory=memory, layers=3)
    params, tokens = case(config)
    Counted.total = 0
    counted = {name: p.view(Counted) for name, p in params.items()}
    memt.model_forward(counted, tokens, config, np.arange(4, 9))
    assert Counted.total == len(tokens) * common.flops(config, tokens.shape[1], 5)
    assert memt.param_count(config) == memt.flat(params).size


def test_counts_by_hand(monkeypatch):
    """And by enumeration: what is right most often, given a symbol and all proportions."""
    rng = np.random.default_rng(0)
    assert counting.answers("occurs", np.array([[0, 0, 3]])).tolist() == [[1, 1, 0]]
    assert counting.answers("follows", np.array([[0, 1, 1, 9]])).tolist() == [[2, 0, 0, 1]]
    tokens, targets, at, _ = counting.batch({"task": "occurs", "blanks": 1}, 3, 5, rng)
    assert tokens.shape == (3, 6) and (tokens[:, 0] == 4).all() and at == slice(1, None)
    assert np.array_equal(targets, counting.answers("occurs", tokens[:, 1:]))
    monkeypatch.setattr(counting, "LENGTHS", range(2, 7))
    for task, symbols in (("occurs", 1), ("occurs", 3), ("follows", 3)):
        monkeypatch.setitem(counting.SYMBOLS, task, symbols)
        seen = {}
        for n in counting.LENGTHS:
            for x in itertools.product(range(symbols), repeat=n):
                about = tuple(round(60 * x.count(symbol) / n) for symbol in range(symbols))
                for symbol, answer in zip(x, counting.answers(task, np.array([x]))[0], strict=True):
                    known = seen.setdefault((symbol, about), collections.Counter())
                    known[answer] += 1 / (5 * n * symbols**n)
        best = sum(max(known.values()) for known in seen.values())
        assert counting.proportions_only(task, symbols) == pytest.approx(best)


def test_counting_trains_and_tests_its_models(monkeypatch):
    seen, full = [], counting.jobs(with_seeds([3]))
    monkeypatch.setattr(train_toy, "training", lambda *given: seen.append(given) or ())

    params = memt.zero_params(CONFIG)
    params["out_b"][2] = 1  # so the answer is 2, everywhere; 25 is beyond the outputs
    assert counting.accuracy(params, CONFIG, train_toy.Batch([[0, 1, 2]], [[2, 25, 2]])) == 2 / 3

    def accuracy(params, config, test):
        assert len(params["memory"]) == config.memory and len(test.tokens) == 64
        return 100 * config.memory + test.targets.shape[1]

    monkeypatch.setattr(counting, "accuracy", accuracy)
    for job in counting.jobs(QUICK)[::3]:
        found = counting.run(job)
        s, state, batches = seen.pop()
        sizes = job["positions"], job["memory"], job["width"], job["hidden"], job["layers"], 20
        assert sizes == tuple(getattr(s.config, name) for name in (
            "positions", "memory", "width", "hidden", "layers", "outputs"))  # fmt: skip
        assert found["parameters"] == memt.flat(state.params).size
        mean = 20 if job["run"] == "one length" else 11
        assert (found["accuracy"], found["removed"]) == (100 * job["memory"] + mean, mean)
        assert found["by_length"] == [100 * job["memory"] + n for n in (5, 10, 20, 25, 30, 40)]
        assert any(found["yardstick"]) <= bool(job["memory"] + job["blanks"])
        lengths = {batches(4, 0, step).targets.shape for step in range(200)}
        assert lengths == {(4, n) for n in ([20] if job["run"] == "one length" else range(2, 21))}
        assert {batches(4, 1, step).targets.shape for step in range(9)} == {(4, 20)}
    assert [job["steps"] for job in full[:14]] == [2000] * 12 + [6000, 2000]
    models = {job["model"]: counting.run(job | {"steps": 1}) for job in full[:12]}
    for name in ("hidden 40", "hidden 72", "width 20", "two layers"):
        assert models[name]["parameters"] > models["M = 16"]["parameters"]
        assert models[name]["flops"] > models["M = 4"]["flops"]
        assert name == "hidden 40" or models[name]["flops"] > models["M = 16"]["flops"]


def test_counting_chose_its_rates_on_other_seeds():
    rows = common.read_rows(ROOT / "figures" / "counting.csv", counting.FOUND)
    own = [row for row in rows if int(row["seed"]) in counting.CHOSEN_ON]
    assert counting.chosen_rates(own) == counting.RATES
    assert counting.draw(own, None) is None  # these seeds have no picture


def test_a_head_that_is_a_yardstick(monkeypatch):
    """Head 0 gives the memory row k / (k + count), head 1 does not tell the count."""
    config = Config(variant="memtransformer", width=8, heads=2, hidden=8, memory=1, symbols=4)
    job, rng = {"task": "occurs", "blanks": 0}, np.random.default_rng(0)
    tests = [counting.batch(job, 9, n, rng) for n in (5, 9)]

    def maps(cache):
        x = cache.tokens
        told = 0.3 / (0.3 + (x[:, :, None] == x[:, None]).sum(axis=2))
        weights = np.zeros((1, len(x), 2, x.shape[1] + 1, x.shape[1] + 1))
        weights[0, :, 0, 1:, 0], weights[0, :, 1, 1:, 0] = told, rng.random(x.shape)
        return weights

    monkeypatch.setattr(memt, "attention_maps", maps)
    good, bad = counting.yardstick(memt.zero_params(config), config, job, tests)
    assert good > 0.99 and bad < 0.1


def test_scratch_tasks_by_hand_and_biased_keys(monkeypatch):
    answers = {name: task[2] for name, task in scratch.TASKS.items()}
    assert answers["parity"](np.array([[1, 0, 1, 1, 0], [1, 1, 0, 0, 0]])).tolist() == [1, 0]
    three = answers["match three"](np.array([[5, 1, 2, 9, 9], [5, 1, 1, 1, 1]]))
    assert three.tolist() == [1, 0]  # 2 + 9 + 9 = 20
    x = np.array([[1, 2, 4], [2, 1, 4]])  # permutations do not commute
    matrices = np.eye(3, dtype=int)[np.array(scratch.GROUP)]
    for row, product in zip(x, answers["word problem"](x), strict=True):
        a, b, c = matrices[row]
        assert np.array_equal(matrices[product], c @ b @ a)
    monkeypatch.setattr(train_toy, "training", lambda *_: ())
    job = scratch.jobs(QUICK)[0]
    shares = [scratch.run(job | {"model": model})["on_memory"] for model in scratch.MODELS]
    assert shares[0] == 0 and shares[1] > 0.6 and shares[2] < 0.25


def test_each_recipe_trains_in_its_own_way(monkeypatch):
    """Two are those of train_toy, to the bit; no two are the same."""
    models, job = {}, small(steps=4)
    adam = learning.RECIPES["Adam recipe"]._replace(cosine=4)  # over all steps
    monkeypatch.setitem(learning.RECIPES, "Adam recipe", adam)
    scores = common.scores
    for name in learning.RECIPES:

        def note(s, state, name=name):
            models[name] = memt.flat(state.params).tobytes()
            return scores(s, state)

        monkeypatch.setattr(common, "scores", note)
        assert {*learning.run(job | {"recipe": name})} == {*learning.FOUND}
    assert len({*models.values()}) == len(learning.RECIPES)
    for optimizer in train_toy.OPTIMIZERS:
        _, state = common.train(job | {"optimizer": optimizer})
        assert memt.flat(state.params).tobytes() == models[f"{optimizer.title()} recipe"]


def test_what_learning_looks_at():
    """Uniform WRITE has entropy ln 10; equal rows have cosine 1, orthogonal ones 0."""
    s = train_toy.default_settings(**common.toy_job("membottleneck", layers=1))
    tokens = train_toy.make_batch(s, 100, train_toy.TEST).tokens
    params = learning.start(s, learning.RECIPES["Adam, row j at position j"]).params
    write = train_toy.mean_maps(params, s.config, tokens)[0, :, :10, 10:20].mean(axis=0)
    assert (abs(write.argmax(axis=1) - np.arange(10)) < 2).all()
    assert learning.look(s, params, tokens)[0] < 2
    for name in ("wq", "wo", "w2"):
        params[f"layers.0.mem.{name}"][:] = 0
    params["memory"][1:] = params["memory"][0]
    assert learning.look(s, params, tokens) == pytest.approx((np.log(10), 1))
    params["memory"][:] = np.kron(np.eye(10, 16), (1, -1))  # LayerNorm keeps their directions
    assert learning.look(s, params, tokens) == pytest.approx((np.log(10), 0), abs=1e-6)


def test_tasks_by_hand_and_baselines_with_at_least_as_much():
    x = np.array([[3, 1, 3, 9, 3, 0, 1, 2, 2, 5]])
    want = {
        "sort": [0, 1, 1, 2, 2, 3, 3, 3, 5, 9],
        "rank": [5, 1, 5, 9, 5, 0, 1, 3, 3, 8],
        "repeats": [2, 1, 2, 0, 2, 0, 1, 1, 1, 0],
        "add mode": [6, 4, 6, 2, 6, 3, 4, 5, 5, 8],
        "add kinds": [9, 7, 9, 5, 9, 6, 7, 8, 8, 1],
        "add sum": [2, 0, 2, 8, 2, 9, 0, 1, 1, 4],
    }
    assert {name: task(x)[0].tolist() for name, task in benefit.TASKS.items()} == want
    ours = Config(variant="memtransformer", width=16, hidden=benefit.HIDDEN["memtransformer"])
    wide = replace(ours, variant="transformer", memory=0, hidden=benefit.HIDDEN["transformer"])
    models = replace(wide, hidden=wide.hidden - 1), ours, wide
    narrower, own, chosen = (common.flops(config, 20, 10) for config in models)
    assert narrower < own <= chosen


WHOLE = "abcdefg" * 500 + "xyz" * 130  # the last tenth is all x, y, z


def test_a_text_is_read_with_its_hash(monkeypatch):
    both = f"{WHOLE}\nbcd"
    monkeypatch.setattr(text.pydoc_data.topics, "topics", {"b": "bcd", "a": WHOLE})
    assert text.read_text(text.OWN) == (both, hashlib.sha256(both.encode()).hexdigest()[:12])
    monkeypatch.setattr(text.pydoc_data.topics, "topics", {"a": "a" * 640})
    assert text.read_text(text.OWN)[0] == "a" * 640


def test_text_trains_on_nine_tenths_and_is_tested_on_the_last(monkeypatch):
    monkeypatch.setattr(text, "read_text", lambda name: (WHOLE, "0123"))
    job, seen = text.jobs(QUICK)[1], []
    monkeypatch.setattr(train_toy, "training", lambda *given: seen.extend(given) or ())
    found, (s, state, batches) = text.run(job), seen
    ids = np.array(["abcdefgxyz".index(c) for c in WHOLE])
    test = text.held_out(ids[3501:], 10)
    assert found["bits"] == pytest.approx(text.model_bits(s, state.params, test))
    assert found["baselines"] == text.count_bits(ids[:3501], test, 10)
    jobs = text.jobs(ARGS)[:3]
    flops = [j["steps"] * common.flops(text.settings(j, 10).config, 64, 16) for j in jobs]
    assert flops[0] == pytest.approx(flops[2], rel=1e-3) and flops[1] > 1.05 * flops[0]
    first, again, other, validation = (batches(9, *k) for k in ((0, 1), (0, 1), (0, 2), (1, 1)))
    for tokens, targets, at, _ in (first, other, validation):
        assert tokens.shape == (16, 64) and (tokens == 10).sum() == 256
        x = tokens.copy()
        x[:, at] = targets
        assert all("".join("abcdefgxyz"[i] for i in row) in WHOLE[:3501] for row in x)
        assert len(set(at)) == 16 and len(set(x[:, 0])) > 3
    assert (first.tokens == again.tokens).all()
    assert (first.at != other.at).any() and (first.at != validation.at).any()
    with pytest.raises(ValueError, match="has changed since the start"):
        text.run(job | {"sha256": "0"})


def test_held_out_bits_by_hand():
    s = text.settings(text.jobs(QUICK)[1], 10)
    params, p = memt.zero_params(s.config), np.exp(1) / (np.exp(1) + 9)
    params["out_b"][7] = 1  # so 7 has probability p, everywhere
    for rest in (0, 63):  # what is too short for a span is left out
        ids = np.repeat([7, 1], [64 * 64, 6 * 64 + rest])
        found = text.model_bits(s, params, text.held_out(ids, 10))
        assert found == pytest.approx(-(64 * np.log2(p) + 6 * np.log2((1 - p) / 9)) / 70, abs=1e-5)


def test_counted_bits_by_hand():
    """Counted are the characters that have two neighbours on either side: 0, 1, 2, 0."""
    batch = train_toy.Batch(np.array([[0, 3, 2, 3]]), np.array([[1, 2]]), np.array([1, 3]))
    found = text.count_bits(np.array([2, 2, 0, 1, 2, 0, 2, 2]), [batch], 3)
    want = [(11 / 36, 11 / 36), (31 / 81, 11 / 45), (1757 / 3645, 11 / 45)]
    assert found == pytest.approx(-np.log2(want).mean(axis=1))


def test_numbers_are_translated_and_none_is_in_both_parts(monkeypatch):
    translation, seen, letters = EXPERIMENTS["translation"], [], " abcdefghijklmnopqrstuvwxyz"
    long = "nine hundred thirteen thousand seven hundred forty"
    assert [*map(translation.words, (300020, 913740))] == ["three hundred thousand twenty", long]
    tokens, targets, at, _ = translation.by_length([100000, 913740])[len(long)]
    assert ["".join(letters[i] for i in row) for row in tokens] == [long]
    assert targets.tolist() == [[9, 1, 3, 7, 4, 0]] and at == slice(6)
    parts = translation.data()
    train, test = ({tuple(y) for b in part.values() for y in b.targets} for part in parts)
    assert len(train) > 9000 and len(test) > 800 and not train & test
    monkeypatch.setattr(train_toy, "training", lambda *given: seen.append(given) or ())
    mean_digit = lambda *x: train_toy.Scores(0, 0, x[2].targets.mean(), ())  # noqa: E731
    monkeypatch.setattr(train_toy, "evaluate", mean_digit)
    for job in translation.jobs(QUICK):
        assert translation.run(job)["exact"] == pytest.approx(np.mean([*test]))
        s, _, batches = seen[-1]
        assert (s.config.memory, s.config.hidden) == (job["memory"], job["hidden"])
        assert {tuple(y) for step in range(9) for y in batches(99, 0, step)[1]} <= train
    lengths = [n for n, batch in parts[0].items() for _ in batch.tokens]
    eight, wider = (sum(common.flops(s.config, n, 6) for n in lengths) for s, *_ in seen[2:])
    assert eight <= wider < 1.02 * eight


def test_the_architectures_are_those_of_the_model(tmp_path, monkeypatch):
    """One row of digits for mem, one for seq: 1 attends, 2 to memory that is updated already."""
    whole, figures = ("1" * 6, "1" * 6), []
    want = {"transformer": ("1" * 4,), "memtransformer": whole, "memctrl": whole}
    want |= {"membottleneck": ("1" * 6, "220000"), "masked": ("1" * 6, "110000")}
    monkeypatch.setattr(common, "save", lambda figure, path: figures.append(figure))
    architectures.draw(tmp_path)
    above, below = np.split(np.array(figures[0].axes), 2)
    drawn = {a.get_title(): b.images[0].get_array() for a, b in zip(above, below, strict=True)}
    assert [*drawn] == [*want] == sorted(memt.VARIANTS, key=[*want].index)
    for variant, kinds in want.items():
        rows = np.repeat(kinds, (2, 4)[-len(kinds) :])
        assert ["".join(map(str, row)) for row in drawn[variant]] == rows.tolist(), variant


def test_the_animation_is_made_of_one_run(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(animation, "film", lambda job: (job, "batch", "frames"))
    monkeypatch.setattr(animation, "draw", lambda *given: drawn.append(given))
    for options, steps, seed in ([], 3000, 0), (["--quick", "--seeds=7-9"], 60, 7):
        monkeypatch.setattr(sys, "argv", ["animation", *options, "--out", str(tmp_path)])
        with pytest.raises(SystemExit, match="0"):
            animation.main()
        job = common.toy_job("membottleneck", steps=steps, seed=seed)
        assert drawn.pop() == (job, "batch", "frames", tmp_path / "learning.gif")


def test_the_film_has_every_frame_in_one_order_of_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "EVERY", 2)
    s, shown, frames = animation.film(small(layers=2))
    assert [frame[0] for frame in frames] == [0, 2, 4, 5]
    (_, state), batch = common.train(small(layers=2)), train_toy.make_batch(s, 100, train_toy.TEST)
    _, _, exact, outputs = train_toy.evaluate(state.params, s.config, batch)
    assert frames[-1][1] == exact and (frames[-1][2] == outputs).all()
    assert (shown.tokens == batch.tokens).all()
    assert (frames[-1][3] == attention.look(s, state.params, 100)[0]).all()
    layer, scenes = animation.scenes(s, frames)
    (*_, maps, paths), (*_, last, last_paths) = frames[1], frames[-1]
    order = attention.written_order(last, 4, 3)
    assert layer == max((0, 1), key=lambda i: attention.on_answer(s, last_paths[i])[0])
    np.testing.assert_allclose(scenes[1][0], maps[-1].mean(axis=0)[7:, order])
    np.testing.assert_allclose(scenes[1][1], maps[layer].mean(axis=0)[order, 4:7])
    np.testing.assert_allclose(scenes[1][2], paths[layer].sum(axis=1)[3:, :3])
    draw, drawn = animation.draw_frame, []
    monkeypatch.setattr(animation, "draw_frame", lambda *a: drawn.append(a[1:]) or draw(*a))
    animation.draw(s, batch, frames, tmp_path / "x.gif")
    title, layers, _, *rows = drawn[-1]
    assert title == f"Learning to reverse: step 5, {exact:.0%} exact" and layers == (2, layer + 1)
    sequence = batch.tokens[0, :3], outputs[0], batch.targets[0]
    np.testing.assert_array_equal(rows, sequence)
    with Image.open(tmp_path / "x.gif") as image:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert len(times) >= 4 and sum(times) == pytest.approx(167 * (3 + animation.HOLD), rel=0.1)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.gif"]


# ---------------------------------------------------------------- the CSV

KEYS, FOUND = ("M", "window", "seed"), ("x", "curve")


def row_of(seed, seconds=1):
    row = {"M": 1, "window": None, "seed": seed, "x": 0.5, "curve": [0.5, 1 / 3]}
    return row | {"seconds": seconds}


def test_rows_are_kept_that_many_write_at_once(tmp_path):
    path = tmp_path / "x.csv"
    common.append_row(path, row_of(0))
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))  # as an editor may leave it
    common.append_row(path, row_of(1))
    path.write_bytes(path.read_bytes() + b"\n")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: common.append_row(path, row_of(seed)), range(2, 200)))
    common.append_row(path, row_of(7, seconds=3))  # another process had the same run
    rows = common.read_rows(path, FOUND, KEYS)
    assert sorted(int(row["seed"]) for row in rows) == list(range(200))
    assert [*rows[0].values()] == ["1", "", "0", "0.5", "0.5 0.333333", "1"]
    np.testing.assert_allclose(common.numbers(rows[:2], "curve"), [[0.5, 0.333333]] * 2)
    assert common.numbers(rows, "x").shape == (200,)


DAMAGE = {
    "row 4 is a second header: remove it": lambda lines: [*lines, lines[0]],
    "row 3 is incomplete: remove it": lambda lines: [*lines[:-1], lines[-1][:5]],
    "rows 2 and 4 give different": lambda lines: [*lines, lines[1].replace("0.5,", "0.6,", 1)],
    "not a CSV of this experiment": lambda lines: [line + ",1" for line in lines],
    "is not a CSV of": lambda lines: [lines[0].replace("window", "w"), *lines[1:]],
    "not a CSV": lambda lines: ["1" * 200_000],
    "x.csv' is not": lambda lines: [],
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_or_joined_rows_are_refused(message, tmp_path):
    path = tmp_path / "x.csv"
    for seed in (0, 1):
        common.append_row(path, row_of(seed))
    path.write_text("\n".join(DAMAGE[message](path.read_text().splitlines())))
    with pytest.raises(ValueError, match=message):
        common.read_rows(path, FOUND, KEYS)


@pytest.mark.parametrize("cells", (("abc",), ("",), ("1", "1 2"), ("1 2", "1")))
def test_cells_that_are_no_numbers_are_refused(cells):
    with pytest.raises(ValueError, match="column 'x': must be numbers"):
        common.numbers([{"x": cell} for cell in cells], "x")


def test_seeds_are_numbers_and_those_that_lack_a_run_are_not_drawn():
    jobs, seeds = [{"M": M, "seed": 0} for M in (1, 2)], ("10", "10", "9", "3", "9", "2")
    rows = [{"M": M, "seed": s, "x": M + s} for M, s in zip("212213", seeds, strict=True)]
    want = [("1", "9"), ("2", "9"), ("1", "10"), ("2", "10")]
    assert [common.key(row, ("M", "seed")) for row in common.complete(rows, jobs)] == want
    assert common.by_seed(rows, "x").tolist() == [32, 23, 24, 160]
    assert common.by_seed(rows, "x", M=2).tolist() == [23, 29, 210]


# ---------------------------------------------------------------- commands
def command(*line):
    line = [sys.executable, "-m", *map(str, line)]
    return subprocess.Popen(line, cwd=ROOT, stdout=-1, stderr=-1, text=True)


def rows_of(path):
    rows = common.read_rows(path, capacity.FOUND)
    return sorted(tuple(v for k, v in row.items() if k != "seconds") for row in rows)


def test_a_run_killed_and_interrupted_ends_with_the_same_rows(tmp_path):
    whole, torn = tmp_path / "new" / "whole", tmp_path / "torn"
    line = ("experiments.capacity", "--quick", "--seeds", "0", "--out")
    with command(*line, whole, "--jobs", "99") as run:
        assert run.wait() == 0
    for how, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        with command(*line, torn, "--jobs", "1") as run:
            run.stdout.readline()
            run.send_signal(how)
            assert run.wait() == status
            complaint = run.stderr.read()
    assert complaint == f"stopped; the same command continues from {torn / 'capacity.csv'}\n"
    some, all_rows = rows_of(torn / "capacity.csv"), rows_of(whole / "capacity.csv")
    with command(*line, torn) as again:
        assert f"run 1/{len(all_rows) - len(some)} " in again.stdout.read()
    assert 1 < len(some) < len(all_rows) == 4 and rows_of(torn / "capacity.csv") == all_rows
    assert (torn / "capacity.png").stat().st_size > 10_000


def call(name, *options):
    """Run a command in this process -> its exit status."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", [name, *map(str, options)])
        patch.delitem(sys.modules, f"experiments.{name}", raising=False)
        runpy.run_module(f"experiments.{name}", run_name="__main__")
    return stopped.value.code


BAD = {
    "variants --seeds 4-0": "'4-0': must be a range",
    "variants --seeds 0-1000": "'0-1000': must be a range such as 0-4, of at most 1000 seeds",
    "variants --jobs 0": "'0': must be a whole number",
    "variants --out DIR": "variants.csv' is not a CSV of this experiment",
    "text --text DIR/empty": "has 0 characters: needs at least 640",
    "text --text DIR/binary": "is not text",
    "text --text DIR/many": "has 6001 different characters: at most 6000",
    "text --text DIR/a\udcff": "a\\udcff' is not text",
    "attention DIR/binary": "binary",
    "attention DIR/model": "it does not say its task and length",
    "animation --out DIR/binary": "File exists",
    "claims DIR/empty": "has no table that begins <!-- findings … -->",
    "claims DIR/open": "marker '<!-- details counting -->'",
    "claims DIR/toc": "marker '<!-- findings hops -->'",
    "claims DIR/ends": "2 markers <!-- end -->, 1 that begin a table",
    "claims DIR/name": "'hopps' is no experiment",
    "claims DIR/two": "must name one",
    "counting --seeds 99-100": "(100, 101) choose the rates: must be run alone",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_gets_one_clear_line(line, tmp_path, capsys):
    (tmp_path / "variants.csv").write_text("a,b\n1,2\n")
    for name in ("empty", "a\udcff"):
        (tmp_path / name).touch()
    marked = {"open": "details counting", "name": "findings hopps", "two": "details"}
    for name, marker in marked.items():
        (tmp_path / name).write_text(f"<!-- {marker} -->\n" + "<!-- end -->" * (name != "open"))
    (tmp_path / "toc").write_text("<!-- findings hops -->\n<!-- toc -->\n<!-- end -->\n")
    (tmp_path / "ends").write_text("<!-- findings hops -->\n<!-- end -->\n<!-- end -->\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "many").write_text("".join(map(chr, range(20_000, 26_001))), encoding="utf-8")
    memt.save(tmp_path / "model", memt.zero_params(CONFIG), CONFIG)
    status = 1 if line.startswith(("animation", "claims")) else 2
    assert call(*line.replace("DIR", str(tmp_path)).split(" ")) == status
    said = capsys.readouterr().err
    assert BAD[line] in said and said.count("\n") == 1


def test_an_error_gets_one_line_and_a_name_is_no_formula(tmp_path, capsys, monkeypatch):
    memt.save(tmp_path / "m", memt.zero_params(CONFIG), CONFIG, task="reverse", length=12)
    errors = iter((MemoryError(), ValueError("a\nb"), KeyboardInterrupt()))
    monkeypatch.setattr(memt, "model_forward", lambda *_, **__: (_ for _ in ()).throw(next(errors)))
    for status, said in (
        (1, "attention: stopped: MemoryError\n"),
        (1, "attention: stopped: a b\n"),
        (130, "stopped\n"),
    ):
        assert call("attention", str(tmp_path / "m")) == status
        assert capsys.readouterr().err == said
    common.slide([("a $_$", "", "b c", "shown")], "$_$", [])[0].draw_without_rendering()


def test_no_more_processes_than_cores(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(common, "ProcessPoolExecutor", lambda n, *_: asked.append(n) or 1 / 0)
    for jobs in (1, 2**31):
        with pytest.raises(ZeroDivisionError):
            common.run_all(tmp_path / "x.csv", [], None, jobs)
    assert asked == [1, common.os.cpu_count()]


def test_without_matplotlib_commands_say_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert call("hops") == 2
    assert capsys.readouterr().err == "hops: matplotlib is not installed: pip install matplotlib\n"


NOTES = {"transformer": "no memory", "memtransformer": "never read", "membottleneck": ""}


@pytest.mark.parametrize("variant", NOTES)
def test_one_model_is_read(variant, tmp_path, capsys, monkeypatch):
    config = Config(variant=variant, memory=0 if variant == "transformer" else 3, layers=1)
    params = memt.init_params(config, np.random.default_rng(0))
    monkeypatch.setitem(train_toy.TASKS, "next", lambda x: (x + 1) % 10)  # moves no symbols
    s, file, pictures = train_toy.Settings("next", 4, config=config), tmp_path / "m.npz", []
    train_toy.save_model(file, s, params)
    monkeypatch.setattr(common, "save", lambda *given: pictures.append(given))
    assert call("attention", file) == 0
    ((figure, path),) = pictures
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert path == tmp_path / "map.png" and NOTES[variant] in str(texts)
    title = f"{variant.capitalize()}: What attends to what\nM = {config.memory}"
    assert figure.get_suptitle() == title
    table = attention.table(s, *attention.look(s, params))
    assert capsys.readouterr().out == f"{table}\npicture: {path}\n"


def test_a_model_answers_and_says_from_where(tmp_path, capsys, monkeypatch):
    """Slot 2 of 3 reads token 3, which has the symbol at place 1, and attends to place 3."""
    s, x = train_toy.Settings(length=3, config=replace(CONFIG, layers=2)), [7, 0, 5]
    train_toy.save_model(tmp_path / "model.npz", s, memt.zero_params(s.config))
    maps, path = np.full((2, 1, 2, 11, 11), 0.05), np.full((6, 5, 6), 0.01)
    maps[1, 0, :, 9, (2, 7)], path[4, 2, 0] = 0.4, 0.5
    monkeypatch.setattr(memt, "attention_maps", lambda cache: maps)
    monkeypatch.setattr(attention, "paths", lambda *_: {0: 0 * path, 1: path})
    assert call("ask", tmp_path, *x) == 0
    head, *lines = capsys.readouterr().out.split("\n")
    assert head.split("  ")[:3] == ["slot", "output", "target"] and lines[0].split()[:3] == [*"105"]
    want = ["2", "0", "0", "token 3 40%, token 1 5%", "7 (place 1) 54%, 0 (place 2) 5%",
            "5 (place 3) 40%, 7 (place 1) 5%"]  # fmt: skip
    assert [cell.strip() for cell in lines[1].split("  ") if cell] == want
    for symbols in (x[:2], [7, 0, 10]):
        assert call("ask", tmp_path / "model.npz", *symbols) == 2
        assert "must be 3, each from 0 to 9" in capsys.readouterr().err


def test_a_warning_before_a_figure_of_the_repository_is_redrawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = argparse.Namespace(quick=False, out=Path("other"))
    for args in (ARGS, QUICK, other, other):
        common.place(args, "x.png").touch()
    assert capsys.readouterr().out == ""
    want = {Path("figures/x.png"), Path("runs/quick/x.png"), Path("other/x.png")}
    assert set(Path().rglob("x.png")) == want
    path = common.place(ARGS, "x.png")
    said = f"{path} will be overwritten; use --out FOLDER to write elsewhere\n"
    assert capsys.readouterr().out == said


def test_cost_is_measured_by_one_process(monkeypatch):
    monkeypatch.setattr(common, "main", lambda _, parser: parser.exit(parser.get_default("jobs")))
    assert call("cost") == 1


def test_the_experiments_are_found(capsys):
    assert call("claims", "--names") == 0
    found = capsys.readouterr().out.split()
    assert found == [*EXPERIMENTS, "animation", "architectures"] and len(found) > 8


def test_claims_count_the_seeds_that_have_all_runs_and_no_others(tmp_path, capsys):
    """Rows with other settings are refused; a seed that was stopped is left out, and named."""
    rows = common.read_rows(ROOT / "figures" / "hops.csv", hops.FOUND)
    stopped = rows[0] | {"seed": "77"}
    changed = [rows[0] | {"steps": "30"}, *rows[1:]], [rows[0] | {"variant": "masked "}, *rows[1:]]
    for i, given in enumerate(([*rows, stopped], *changed)):
        (tmp_path / f"{i}").mkdir()
        for row in given:
            common.append_row(tmp_path / f"{i}" / "hops.csv", row)
    assert hops.finding(rows)[0][2] in claims.findings("hops", folder=tmp_path / "0")
    assert capsys.readouterr().err.endswith("hops.csv: seed 77 is incomplete, left out\n")
    with pytest.raises(ValueError, match="steps is 1500 and 30: must be the same"):
        claims.findings("hops", folder=tmp_path / "1")
    claims.findings("hops", folder=tmp_path / "2")
    assert capsys.readouterr().err.endswith("hops.csv: seed 0 is incomplete, left out\n")
    common.append_row(tmp_path / "hops.csv", stopped)
    with pytest.raises(ValueError, match="has no complete seed"):
        claims.findings("hops", folder=tmp_path)


def test_the_lesson_has_the_numbers_of_learning():
    rows = common.read_rows(ROOT / "figures" / "learning.csv", learning.FOUND)
    lesson = " ".join((ROOT / "lesson.md").read_text(encoding="utf-8").split())
    bases = {
        "Adam recipe": ("positions × 3", "symbols × 0.3", "wo zero", "row j at position j"),
        "Muon recipe": ("symbols not scaled", "wo not zero", "weights not averaged",
                        "Adam instead of Muon", "only scaled, to 1", "only scaled, to 2"),
    }  # fmt: skip
    for base, names in bases.items():
        for name in names:
            taken = learning.steps(rows, name if base == "Muon recipe" else f"Adam, {name}")
            ratio = common.times(np.log(taken / learning.steps(rows, base)))
            assert ratio.removeprefix("× ") in lesson, (name, ratio)


@pytest.mark.parametrize("document", ("README.md", "experiments/README.md"))
def test_documents_have_the_table_that_the_command_writes(document, tmp_path):
    kept, copy = (ROOT / document).read_text(encoding="utf-8"), tmp_path / "copy.md"
    copy.write_text(claims.PART.sub(r"\1", kept), encoding="utf-8")
    assert call("claims", copy) == 0 and claims.findings("counting")[-200:] in kept
    assert copy.read_text(encoding="utf-8") == kept, f"python -m experiments.claims {document}"


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as one:
        same_text.__wrapped__(one)
        made = "\n\n".join(golden(name, one) for name in [*EXPERIMENTS, "animation"])
        GOLDEN.write_text(made + "\n", encoding="utf-8")
