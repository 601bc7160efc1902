"""Why is a bottleneck slow to learn, and what does each part of the training recipe do?

Ours. membottleneck learns reverse by train_toy's recipe, by the former one (Adam), and by both with
one part changed. A part matters if changing it makes the number of steps clearly different.
"""

from collections import namedtuple
from contextlib import ExitStack
from unittest.mock import patch

from experiments import common
from experiments.common import memt, np, train_toy

# optimizer; factors of the initial symbols, of the initial wo, of the positions; whether the model
# is a running mean; steps of a cosine schedule, if any; whether memory rows start apart (`told`)
Recipe = namedtuple("Recipe", "optimizer symbols wo positions mean cosine told")
NEW, OLD = Recipe("muon", 0.3, 0, 1, True, 0, False), Recipe("adam", 1, 1, 1, False, 3000, False)
RECIPES = {
    "new recipe": NEW,
    "Adam instead of Muon": NEW._replace(optimizer="adam"),
    "symbols not scaled": NEW._replace(symbols=1),
    "wo not zero": NEW._replace(wo=1),
    "neither of the two": NEW._replace(symbols=1, wo=1),
    "no running mean": NEW._replace(mean=False),
    "cosine over 400 steps": NEW._replace(cosine=400),
    "cosine over 3,000 steps": NEW._replace(cosine=3000),
    "old recipe": OLD,
    "old, symbols × 0.3": OLD._replace(symbols=0.3),
    "old, positions × 3": OLD._replace(positions=3),
    "old, wo zero": OLD._replace(wo=0),
    "old, rows told apart": OLD._replace(told=True),
}
LOOK_AT, LOOK_ON = range(0, 801, 25), 64  # steps, then sequences
FOUND = (*common.SCORES, "entropy", "likeness", "validated")


def jobs(args):
    fixed = common.toy_job("membottleneck", steps=30 if args.quick else 3000)
    return [fixed | {"recipe": name, "seed": seed} for seed in args.seeds for name in RECIPES]


def start(s, recipe):
    """The start of a run: the weights that train_toy draws, changed as the recipe says."""
    state, (M, C) = train_toy.start(s), (s.config.memory, s.config.width)
    drawn = memt.init_params(s.config, np.random.default_rng([s.seed, train_toy.START]))
    drawn["embed"] *= recipe.symbols
    for name in drawn:
        if name.endswith(".wo"):
            drawn[name] *= recipe.wo
    if recipe.told:  # row j starts as position j, and its first keys as queries: it attends to j
        drawn["memory"][:] = 3 * memt.sinusoids(M, C, np.float32)
        drawn["layers.0.mem.wkv"][:, :C] = drawn["layers.0.mem.wq"]
    memt.flat(state.weights)[:] = memt.flat(state.params)[:] = memt.flat(drawn)
    return state


def changed(recipe):
    """-> a context in which train_toy trains by this recipe."""
    context, fixed = ExitStack(), memt.sinusoids

    def rate(s, step):
        warm_up = 20 if recipe.optimizer == "muon" else 100
        cosine = 1 + np.cos(np.pi * min(1, (step - 1) / recipe.cosine))
        return s.lr * min(1, step / warm_up) * cosine / 2

    def adam(grads, m, v, step, _config):
        return train_toy.adam(memt.flat(grads), m, v, step)

    def positions(T, C, dtype):
        return recipe.positions * fixed(T, C, dtype)

    if recipe.cosine:
        context.enter_context(patch.object(train_toy, "learning_rate", rate))
    if recipe.optimizer == "adam":
        context.enter_context(patch.object(train_toy, "muon", adam))
    context.enter_context(patch.object(memt, "sinusoids", positions))
    return context


def look(s, params, tokens):
    """-> entropy of WRITE over the symbols (nats; the lowest of the layers), likeness of memory.

    Likeness: mean cosine of two rows of the final memory.
    """
    M, n = s.config.memory, s.length
    _, cache = memt.model_forward(params, tokens, s.config)
    write = memt.attention_maps(cache)[:, :, :, :M, M : M + n] + 1e-12
    write /= write.sum(axis=-1, keepdims=True)
    entropy = (-write * np.log(write)).sum(axis=-1).mean(axis=(1, 2, 3)).min()
    rows = memt.final_memory(cache)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    likeness = ((rows @ rows.swapaxes(1, 2)).sum(axis=(1, 2)) - M).mean() / (M * (M - 1))
    return float(entropy), float(likeness)


def run(job):
    """Train; `entropy`, `likeness`, `validated` (exact match) at LOOK_AT, the last one repeated."""
    recipe = RECIPES[job["recipe"]]
    s = train_toy.default_settings(**{n: x for n, x in job.items() if n != "recipe"})
    tokens, state = train_toy.make_batch(s, LOOK_ON, train_toy.TEST, 1).tokens, start(s, recipe)
    if not recipe.mean:
        state.params = state.weights  # the mean of itself
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


def times(rows, name, base):
    """How many times as many steps as `base`: the geometric mean and its 95% interval."""
    logs = np.log(steps(rows, name) / steps(rows, base))
    half = common.interval(logs)
    middle, low, high = np.exp((logs.mean(), logs.mean() - half, logs.mean() + half))
    return f"× {middle:.2f} ({low:.2f} to {high:.2f})", common.clear(logs)


def finding(rows):
    new, faster = times(rows, "new recipe", "old recipe")
    small, sign = times(rows, "old, symbols × 0.3", "old recipe")
    large, too = times(rows, "old, positions × 3", "old recipe")
    told, apart = times(rows, "old, rows told apart", "old recipe")
    return [
        ("The recipe with Muon takes fewer steps than the one with Adam", "ours",
         f"Steps to solved {new}", common.shown(faster < 0)),
        ("Adam is faster with smaller symbols, or larger positions", "ours",
         f"Steps {small} and {large}", common.shown(max(sign, too) < 0)),
        ("A bottleneck is slow since its memory rows start alike", "ours",
         f"Adam's steps where each row starts at a position of its own: {told}",
         common.shown(apart < 0)),
    ]  # fmt: skip


def draw(rows, out):
    """Left: the steps of every recipe, a dot per seed. Right: what happens meanwhile."""
    note = "membottleneck, reverse; bar: geometric mean; band: range over seeds; WRITE over the "
    note += "symbols, in the layer where it is sharpest; likeness: mean cosine of two memory rows"
    options = {"gridspec_kw": {"width_ratios": (4, 3)}, "sharex": "col"}
    figure, grid = common.slide(finding(rows), note, rows, 2, 3, **options)
    for axes in grid[:, 0]:
        axes.remove()
    axes = figure.add_subplot(grid[0, 0].get_gridspec()[:, 0])
    for y, name in enumerate(RECIPES):
        taken, color = steps(rows, name), common.COLORS[name.startswith("old")]
        axes.plot(taken, np.full(len(taken), y), "o", color=color, alpha=0.5, clip_on=False)
        axes.plot(np.exp(np.log(taken).mean()), y, "|", color=color, markersize=18, mew=4)
    axes.set(xscale="log", xlabel="steps to solved", ylim=(len(RECIPES) - 0.5, -0.5))
    axes.set_xticks((100, 200, 400, 800, 1600, 3000), (100, 200, 400, 800, "1600", "3000"))
    axes.minorticks_off()
    axes.set_yticks(range(len(RECIPES)), RECIPES, fontsize=14)
    for axes, name in zip(grid[:, 1], FOUND[-3:], strict=True):
        for i, recipe in enumerate(("new recipe", "old recipe")):
            values = common.by_seed(rows, name, recipe=recipe)
            common.line(axes, LOOK_AT, values, i, marker="", label=recipe)
        axes.tick_params(labelsize=13)
    for axes, text in zip(
        grid[:, 1],
        ("entropy of\nWRITE (nats)", "likeness of\nmemory rows", "exact match"),
        strict=True,
    ):
        axes.set_ylabel(text, fontsize=14)
    grid[0, 1].legend(fontsize=13, frameon=False)
    grid[2, 1].set_xlabel("step")
    common.save(figure, out / "learning.png")


if __name__ == "__main__":
    common.main("learning")
