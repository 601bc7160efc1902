"""Lesions (also called ablations): what does a trained model lose when memory tokens are removed?

The question is the paper's; the setting is ours. Each token is removed alone; then one by one, in
random order. At least one stays, since the sequence of a bottleneck attends to memory only.
"""

import numpy as np

import train_toy
from experiments import common

VARIANTS = {"memtransformer": {}, "memctrl": {}, "membottleneck": {}}
VARIANTS |= {"masked": {"layers": 3, "memory": 16}}
ORDERS = 3  # random orders, averaged
FOUND = (*common.SCORES, "matrix", "removed", "lesioned_on")


def jobs(args):
    steps, tasks = (30, ("copy",)) if args.quick else (3000, ("copy", "reverse"))
    return [
        common.toy_job(v, task=task, steps=steps, seed=seed, **own)
        for seed in args.seeds
        for task in tasks
        for v, own in VARIANTS.items()
    ]


def removed(params, config, batch, order):
    """Symbol accuracy after the first 0, 1, … M-1 tokens of the order are removed."""
    lesioned = (train_toy.without(params, config, order[:k]) for k in range(len(order)))
    return [train_toy.evaluate(*model, batch).symbol for model in lesioned]


def run(job):
    """Train, then remove. `matrix`: train_toy.lesion_matrix, row by row; `removed`: the mean."""
    s, state = common.train(job)
    batch = train_toy.make_batch(s, train_toy.LESIONED_ON, train_toy.TEST)
    model, rng = (state.params, s.config, batch), np.random.default_rng([s.seed, 4])
    curves = [removed(*model, rng.permutation(s.config.memory)) for _ in range(ORDERS)]
    found = {"matrix": train_toy.lesion_matrix(*model).ravel().tolist()}
    found |= {"removed": np.mean(curves, axis=0).tolist(), "lesioned_on": len(batch.tokens)}
    return common.scores(s, state) | found


def finding(rows):
    variants = "membottleneck", "memtransformer"
    one, other = (100 * common.by_seed(rows, "matrix", variant=v).mean(axis=1) for v in variants)
    nine, others = (100 - 100 * common.by_seed(rows, "removed", variant=v)[:, -1] for v in variants)
    claim = "Removing memory tokens spoils answers of a membottleneck, not of a memtransformer"
    measured = f"Wrong without one token: {common.spread(one - other)} points more "
    measured += f"(without nine of ten: {nine.mean():.1f}% against {others.mean():.1f}%)"
    verdict = common.shown(common.clear(one - other) > 0)
    return [(claim, "question: paper; setting: ours", measured, verdict)]


def draw(rows, out):
    """The lesion matrix of the first seed's models of one task; their means count all runs."""
    seed, task = rows[0]["seed"], rows[-1]["task"]  # reverse; in miniature, copy
    note = f"one model each: {task}, seed {seed}, {rows[0]['lesioned_on']} test sequences; tokens "
    note += "sorted by the slot that needs them most; % wrong: mean over copy and reverse"
    figure, ((*grid,),) = common.slide(finding(rows), note, rows, columns=len(VARIANTS))
    for axes, variant in zip(grid, VARIANTS, strict=True):
        own = {"variant": variant}
        matrix = common.by_seed(rows, "matrix", task=task, **own)[0]
        image = train_toy.draw_matrix(axes, matrix.reshape(-1, int(rows[0]["length"])))
        wrong = 100 * common.by_seed(rows, "matrix", **own).mean()
        axes.set_title(f"{variant}\n{wrong:.1f}% wrong")
        axes.tick_params(labelsize=12)
    for axes in grid[1:]:
        axes.set_ylabel("")
    figure.colorbar(image, ax=grid, label="wrong answers (%)")
    common.save(figure, out / "lesions.png")


if __name__ == "__main__":
    common.main("lesions")
