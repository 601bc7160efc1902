"""Why is a bottleneck slow to learn, and what does each part of the training recipe do?

Ours. membottleneck learns reverse by train_toy's two recipes, Muon and Adam, and by these with one
part changed. A part matters if changing it makes the number of steps clearly different.
"""

import itertools
import math
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple
from unittest.mock import patch

import numpy as np

import memt
import train_toy
from experiments import common


class Recipe(NamedTuple):
    optimizer: str = "muon"
    symbols: float = 0.3  # factor of the initial embedding
    wo: float = 0  # factor of the initial wo
    positions: float = 1  # factor of the positions
    mean: bool = True  # the model is a running mean of the weights
    cosine: int = 0  # steps of a cosine schedule, if any
    placed: bool = False  # at first, row j's WRITE is at j
    largest: float = 0  # Muon only scales, until this is the largest singular value; 0: it doesn't
    most: int = 3000  # steps


MUON, ADAM = Recipe(), Recipe("adam", symbols=1, wo=1, mean=False, cosine=3000)
RECIPES = {
    "Muon recipe": MUON,
    "Adam instead of Muon": MUON._replace(optimizer="adam"),
    "only scaled, to 1": MUON._replace(largest=1),
    "only scaled, to 2": MUON._replace(largest=2),
    "only scaled, to 5": MUON._replace(largest=5, most=1000),  # it never solves the task
    "symbols not scaled": MUON._replace(symbols=1),
    "wo not zero": MUON._replace(wo=1),
    "both of these": MUON._replace(symbols=1, wo=1),
    "weights not averaged": MUON._replace(mean=False),
    "cosine over 400 steps": MUON._replace(cosine=400),
    "cosine over 3,000 steps": MUON._replace(cosine=3000),
    "Adam recipe": ADAM,
    "Adam, symbols × 0.3": ADAM._replace(symbols=0.3),
    "Adam, positions × 3": ADAM._replace(positions=3),
    "Adam, wo zero": ADAM._replace(wo=0),
    "Adam, row j at position j": ADAM._replace(placed=True),
}
LOOK_AT, LOOK_ON = range(0, 801, 25), 64  # steps, then sequences
FOUND = (*common.SCORES, "entropy", "similarity", "validated")


def jobs(args):
    found = []
    for seed, (name, recipe) in itertools.product(args.seeds, RECIPES.items()):
        steps = 30 if args.quick else recipe.most
        job = common.toy_job("membottleneck", steps=steps, seed=seed)
        found.append(job | {"optimizer": recipe.optimizer, "recipe": name})
    return found


def start(s, recipe):
    """The start of a run: the weights that train_toy draws, changed as the recipe says."""
    state, (M, C) = train_toy.start(replace(s, optimizer="adam")), (s.config.memory, s.config.width)
    for params in (state.params, state.weights):
        params["embed"] *= recipe.symbols
        for name, array in params.items():
            if name.endswith(".wo"):
                array *= recipe.wo
        if recipe.placed:  # row j starts as position j, and keys like queries: it attends to j
            params["memory"][:] = 3 * memt.sinusoids(M, C, np.float32)
            params["layers.0.mem.wkv"][:, :C] = params["layers.0.mem.wq"]
    return state


def changed(recipe):
    """-> a context in which train_toy trains by this recipe."""
    context, fixed = ExitStack(), memt.sinusoids

    def rate(s, step):
        warm_up = 20 if recipe.optimizer == "muon" else 100
        cosine = 1 + math.cos(math.pi * min(1, (step - 1) / recipe.cosine))
        return s.lr * min(1, step / warm_up) * cosine / 2

    def adam(grad, m, v, step, _config):
        return train_toy.adam(grad, m, v, step)

    def scaled(x):  # all singular values keep their ratios
        return recipe.largest * x / np.linalg.norm(x, 2, axis=(1, 2), keepdims=True).clip(1e-7)

    def positions(T, C, dtype):
        return recipe.positions * fixed(T, C, dtype)

    if recipe.cosine:
        context.enter_context(patch.object(train_toy, "learning_rate", rate))
    if recipe.optimizer == "adam":
        context.enter_context(patch.object(train_toy, "muon", adam))
    if recipe.largest:
        context.enter_context(patch.object(train_toy, "orthogonal", scaled))
    context.enter_context(patch.object(memt, "sinusoids", positions))
    return context


def look(s, params, tokens):
    """-> entropy of WRITE over the symbols (nats; minimum over layers), similarity of memory.

    Similarity: mean cosine of two rows of the final memory.
    """
    M, n = s.config.memory, s.length
    _, cache = memt.model_forward(params, tokens, s.config)
    write = memt.attention_maps(cache)[:, :, :, :M, M : M + n] + 1e-12
    write /= write.sum(axis=-1, keepdims=True)
    entropy = (-write * np.log(write)).sum(axis=-1).mean(axis=(1, 2, 3)).min()
    rows = memt.memory_states(cache)[-1]
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    similarity = ((rows @ rows.swapaxes(1, 2)).sum(axis=(1, 2)) - M).mean() / (M * (M - 1))
    return float(entropy), float(similarity)


def run(job):
    """Train; what is found at LOOK_AT; after the last step, its values are repeated."""
    recipe = RECIPES[job["recipe"]]
    given = {n: x for n, x in job.items() if n != "recipe"}
    s = train_toy.default_settings(**given | {"optimizer": "muon"})  # in its place: see `changed`
    tokens, state = train_toy.make_batch(s, LOOK_ON, train_toy.TEST, 1).tokens, start(s, recipe)
    if not recipe.mean:
        state.vectors["params"] = state.vectors["weights"]  # the mean of itself
    with changed(recipe):
        rows = [(*look(s, state.params, tokens), 0.0)]
        for _ in train_toy.training(s, state):
            if state.step in LOOK_AT:
                rows.append((*look(s, state.params, tokens), state.log[-1][3]))
        rows += rows[-1:] * (len(LOOK_AT) - len(rows))
        found = dict(zip(FOUND[-3:], zip(*rows, strict=True), strict=True))
        return common.scores(s, state) | found


def steps(rows, name):
    """Steps taken, one number for each seed."""
    return common.by_seed(rows, "taken", recipe=name)


def ratios(rows, name):
    """Logarithm of the steps divided by those of the Adam recipe, one number for each seed."""
    return np.log(steps(rows, name) / steps(rows, "Adam recipe"))


def finding(rows):
    claims = {
        "Muon recipe": "A MemBottleneck needs fewer steps with the default recipe than with Adam's",
        "Adam, positions × 3": "Adam takes fewer steps with positional encodings times three",
    }
    return [
        (claim, "ours", f"Steps {common.times(ratios(rows, name))} compared with the Adam recipe",
         common.shown(common.clear(ratios(rows, name)) < 0))
        for name, claim in claims.items()
    ]  # fmt: skip


def draw(rows, out):
    """Left: the steps of every recipe, a dot per seed. Right: what happens during training."""
    note = "membottleneck, reverse; bar: geometric mean; band: range over seeds; WRITE over the "
    note += "symbols, in the layer where it is sharpest; similarity: mean cosine of two memory "
    note += "rows; not solved: at 3000, and all at 1000 that are only scaled, to 5"
    options = {"gridspec_kw": {"width_ratios": (4, 3)}, "sharex": "col"}
    figure, grid = common.slide(finding(rows), note, rows, 2, 3, **options)
    for axes in grid[:, 0]:
        axes.remove()
    axes = figure.add_subplot(grid[0, 0].get_gridspec()[:, 0])
    for y, name in enumerate(RECIPES):
        common.dots(axes, y, steps(rows, name), y >= [*RECIPES].index("Adam recipe"))
    axes.set_yticks(range(len(RECIPES)), RECIPES, fontsize=14)
    labels = ("entropy of\nWRITE (nats)", "similarity of\nmemory rows", "exact match")
    for axes, name, label in zip(grid[:, 1], FOUND[-3:], labels, strict=True):
        for i, recipe in enumerate(("Muon recipe", "Adam recipe")):
            values = common.by_seed(rows, name, recipe=recipe)
            common.line(axes, LOOK_AT, values, i, marker="", label=recipe)
        axes.set_ylabel(label, fontsize=14)
        axes.tick_params(labelsize=13)
    grid[0, 1].legend(fontsize=13, frameon=False)
    grid[2, 1].set_xlabel("step")
    common.save(figure, out / "learning.png")


if __name__ == "__main__":
    common.main("learning")
