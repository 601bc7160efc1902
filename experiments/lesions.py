"""Lesions (also called ablations): what does a trained model lose when memory tokens are removed?

The question is the paper's; the setting is ours. Tokens are removed one by one, in random order or
most used first, or replaced one by one with noise or with the mean of all tokens. At least one is
never removed, since the sequence of a membottleneck attends to memory only.
"""

from dataclasses import replace

import numpy as np

import memt
import train_toy
from experiments import attention, common

VARIANTS = ("memtransformer", "memctrl", "membottleneck")
WAYS = {
    "random": "removed, random order",
    "used": "removed, most used first",
    "noise": "replaced with noise",
    "mean": "replaced with the mean",
}
ORDERS, LESIONED_ON = 3, 500  # random orders, averaged; test sequences
FOUND = (*common.SCORES, "read", "lesioned_on", *WAYS)


def jobs(args):
    steps, tasks = (30, ("copy",)) if args.quick else (3000, ("copy", "reverse"))
    return [
        common.toy_job(v, task=task, steps=steps, seed=seed)
        for seed in args.seeds
        for task in tasks
        for v in VARIANTS
    ]


def use(params, config, tokens):
    """The mean READ weight that a sequence row gives to each memory token, (M,)."""
    M = config.memory
    return train_toy.mean_maps(params, config, tokens)[:, :, M:, :M].mean(axis=(0, 1, 2))


def keep(params, config, tokens):
    """-> params and configuration with only these memory tokens (k,), in their original order."""
    kept = params | {"memory": params["memory"][np.sort(tokens)]}
    return kept, replace(config, memory=len(tokens))


def exchange(params, tokens, rows):
    """-> params in which these memory tokens (k,) are replaced with those of `rows` (M, C)."""
    memory = params["memory"].copy()
    memory[tokens] = rows[tokens]
    return params | {"memory": memory}


def removed(params, config, batch, order):
    """Symbol accuracy after the first 0, 1, … M-1 tokens of the order are removed."""
    lesioned = (keep(params, config, order[k:]) for k in range(len(order)))
    return [train_toy.evaluate(*model, batch).symbol for model in lesioned]


def replaced(params, config, batch, order, rows):
    """Symbol accuracy after the first 0, 1, … M tokens of the order are replaced."""
    lesioned = (exchange(params, order[:k], rows) for k in range(len(order) + 1))
    return [train_toy.evaluate(params, config, batch).symbol for params in lesioned]


def run(job):
    """Train, then damage: symbol accuracy by number of tokens lost; `read` is the sum of `use`.

    Noise is normal, with the mean and standard deviation of the model's memory.
    """
    s, state = common.train(job)
    batch = train_toy.make_batch(s, LESIONED_ON, train_toy.TEST)
    model, memory = (state.params, s.config, batch), state.params["memory"]
    used = use(state.params, s.config, batch.tokens)
    rng = np.random.default_rng([s.seed, 4])
    orders = [rng.permutation(len(memory)) for _ in range(ORDERS)]
    noise = memory.mean() + memory.std() * rng.standard_normal((ORDERS, *memory.shape))
    mean = np.broadcast_to(memory.mean(axis=0), memory.shape)
    curves = (
        [removed(*model, order) for order in orders],
        [removed(*model, np.argsort(-used))],
        [replaced(*model, *pair) for pair in zip(orders, noise, strict=True)],
        [replaced(*model, order, mean) for order in orders],
    )
    means = (np.mean(curve, axis=0).tolist() for curve in curves)
    found = {"read": float(used.sum()), "lesioned_on": LESIONED_ON}
    return common.scores(s, state) | found | dict(zip(WAYS, means, strict=True))


def finding(rows):
    only, beside = (
        100 * common.by_seed(rows, "random", variant=v)[:, -1]
        for v in ("membottleneck", "memtransformer")
    )
    claim = "A model whose only path is memory relies on it more than one with other paths"
    measured = "Symbol accuracy with nine of ten memory tokens removed: membottleneck "
    measured += f"{common.spread(only)}%, memtransformer {beside.mean():.1f}%"
    verdict = common.shown(common.clear(beside - only) > 0)
    return [(claim, "question: paper; setting: ours", measured, verdict)]


def draw(rows, out):
    """A panel per variant, a line per kind of lesion, both tasks together."""
    note = "copy and reverse, M = 10, trained until solved; "
    note += f"{rows[0]['lesioned_on']} test sequences; "
    note += "READ: share of a sequence row's attention, and that of uniform attention"
    figure, grid = common.slide(finding(rows), note, rows, columns=3, sharey=True)
    for axes, ((variant,), own) in zip(grid[0], common.group(rows, "variant").items(), strict=True):
        for i, (way, label) in enumerate(WAYS.items()):
            values = 100 * common.numbers(own, way)
            common.line(axes, range(values.shape[1]), values, i, label=label)
        read = 100 * common.numbers(own, "read").mean()
        uniform = attention.shares(attention.uniform(memt.Config(variant=variant), 20), 10)["READ"]
        axes.set_title(f"{variant}\nREAD {read:.0f}%, uniform {100 * uniform:.0f}%")
        common.chance(axes)
        axes.set(xlabel="tokens lost (of 10)", ylim=(0, 103), xticks=range(0, 11, 2))
    grid[0, 0].set_ylabel("symbol accuracy (%)")
    grid[0, 0].legend(loc=(0.02, 0.1), fontsize=14, frameon=False)
    common.save(figure, out / "lesions.png")


if __name__ == "__main__":
    common.main("lesions")
