"""Does memory help language modelling? Masked characters of a text, global or local attention.

    python -m experiments.text                # a text that ships with Python
    python -m experiments.text --text FILE    # another, UTF-8

The paper claims that it helps language models and translation; this setting is ours. In each
span of characters, some positions are masked, the same in the whole batch; the loss is the
cross-entropy there. The first nine tenths of the text are for training; the last tenth is held out.
Each M is trained once with the transformer's number of steps, and once with its compute.
"""

import hashlib
import platform
import pydoc_data.topics
from pathlib import Path

import numpy as np

import train_toy
from experiments import common

T, R = 64, 16  # characters in a span, masked ones
MEMORY, RADIUS, STEPS = (0, 2, 8, 16), 4, 1200
MODEL = {"width": 32, "heads": 4, "hidden": 128, "layers": 2, "batch": 16, "lr": 8e-3}
OWN = "pydoc_data.topics"
FOUND = ("symbols", "characters", "held_out", "flops", "bits")


def read_text(name):
    """-> the text of a file, or of OWN; its hash.

    Raises OSError; ValueError if it is not text, or if its last tenth is shorter than a span.
    """
    try:
        text = "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
        text = text if name == OWN else Path(name).read_text(encoding="utf-8")
        name.encode()  # the CSV will contain it
    except UnicodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"--text {name!r} is not text: must be UTF-8 without zero bytes")
    if len(text) < 10 * T:
        raise ValueError(f"--text {name!r} has {len(text)} characters: needs at least {10 * T}")
    return text, hashlib.sha256(text.encode()).hexdigest()[:12]


def settings(job, symbols):
    """The settings of the model and its training."""
    own = {name: job[name] for name in (*MODEL, "memory", "window", "steps", "seed")}
    variant = "memtransformer" if job["memory"] else "transformer"
    return train_toy.default_settings(variant, symbols=symbols, **own)


def jobs(args):
    """Windows × M × budgets. The transformer has only one budget, since its two are equal."""
    text, sha256 = read_text(args.text)
    if args.text != OWN:
        args.out = args.out or Path("runs/text")  # figures/ holds the results for OWN
    about = {"text": args.text, "sha256": sha256, "python": platform.python_version()}
    about |= {"length": T, "blanked": R} | MODEL
    steps, found = 20 if args.quick else STEPS, []
    for seed in args.seeds:
        for window in (None, RADIUS):
            for M in MEMORY[::3] if args.quick else MEMORY:
                job = about | {"window": window, "memory": M, "seed": seed}
                job |= {"budget": "steps", "steps": steps}
                models = (settings(job | {"memory": m}, len(set(text))).config for m in (0, M))
                plain, ours = (common.flops(config, T, R) for config in models)
                equal = {"budget": "compute", "steps": round(steps * plain / ours)}
                found += [job, job | equal] if M else [job]
    return found


def windows(ids, starts, rng, symbols):
    """A Batch: T characters from each start, R of them masked; the targets are those."""
    x, at = ids[starts[:, None] + np.arange(T)], np.sort(rng.choice(T, R, replace=False))
    tokens = x.copy()
    tokens[:, at] = symbols
    return train_toy.Batch(tokens, x[:, at], at)


def held_out(s, params, ids):
    """Bits per masked character over all adjacent spans; all models get the same masks."""
    rng, bits = np.random.default_rng(0), 0
    starts = np.arange(0, len(ids) - T + 1, T)
    for i in range(0, len(starts), 64):
        batch = windows(ids, starts[i : i + 64], rng, s.config.symbols)
        bits += train_toy.evaluate(params, s.config, batch).loss * len(batch.tokens) / np.log(2)
    return float(bits / len(starts))


def run(job):
    """Train, then measure on held-out text; `flops`: operations of the training, in 10¹².

    Raises ValueError if the text has changed since the job was made.
    """
    text, sha256 = read_text(job["text"])
    if sha256 != job["sha256"]:
        raise ValueError(f"--text {job['text']!r} has changed since the start: restart the command")
    symbols, ids = np.unique(list(text), return_inverse=True)
    ids, test = np.split(ids, [len(ids) * 9 // 10])
    s = settings(job, len(symbols))
    state = train_toy.start(s)

    def batches(_, stream, step):  # also for validation, whose result is not used
        rng = np.random.default_rng([s.seed, stream, step])
        starts = rng.integers(len(ids) - T + 1, size=s.batch)
        return windows(ids, starts, rng, len(symbols))

    for _ in train_toy.training(s, state, batches):
        pass
    flops = 3 * common.flops(s.config, T, R) * s.batch * s.steps / 1e12
    values = (len(symbols), len(ids), len(test), flops, held_out(s, state.params, test))
    return dict(zip(FOUND, values, strict=True))


def changes(rows, window):
    """(budget, M > 0) -> bits minus those with M = 0, one per seed; lower is better."""
    plain = common.by_seed(rows, "bits", window=window, memory=0)
    kinds = sorted({(row["budget"], row["memory"]) for row in rows if row["memory"] != "0"})
    return {
        (b, M): common.by_seed(rows, "bits", window=window, budget=b, memory=M) - plain
        for b, M in kinds
    }


def name_of(window):
    return f"local attention (window {window})" if window else "global attention"


def finding(rows):
    found = []
    for window, who in ((None, "paper; reported: about 1% lower perplexity"), (RADIUS, "ours")):
        change = [*changes(rows, window).values()]
        clear, mean = [common.clear(x) for x in change], np.mean(change, axis=0)
        measured = f"Memory changes bits per masked character by {common.spread(mean, 3)} "
        measured += f"(negative is better); clear gain in {clear.count(-1)}, clear loss in "
        measured += f"{clear.count(1)} of {len(clear)} comparisons"
        claim = f"Memory helps language modelling with {name_of(window)}"
        found.append((claim, who, measured, common.shown(common.clear(mean) < 0)))
    return found


def draw(rows, out):
    """Bits against M, a panel per kind of attention, a line per budget; both start at M = 0."""
    note = (
        f"held-out {rows[0]['text']}, {R} of {T} characters masked, 2 layers, {rows[0]['steps']} "
    )
    note += "steps; mean and 95% confidence interval; equal compute: fewer steps for larger M"
    figure, grid = common.slide(finding(rows), note, rows, columns=2)
    memory = sorted({int(row["memory"]) for row in rows})
    for axes, window in zip(grid[0], (None, RADIUS), strict=True):
        for i, budget in enumerate(("steps", "compute")):
            own = [row for row in rows if row["budget"] == budget or row["memory"] == "0"]
            values = [common.by_seed(own, "bits", window=window, memory=M) for M in memory]
            means, halves = ([f(v) for v in values] for f in (np.mean, common.interval))
            style = {"marker": common.MARKERS[i], "color": common.COLORS[i], "capsize": 6, "ms": 10}
            x = np.arange(len(memory)) + 0.1 * i
            axes.errorbar(x, means, halves, label=f"equal {budget}", **style)
        axes.set(xticks=range(len(memory)), xticklabels=memory, xlabel="memory tokens M")
        axes.set_title(name_of(window))
        axes.margins(x=0.1, y=0.2)
    grid[0, 0].set_ylabel("bits per masked character\n(lower is better)")
    grid[0, 1].legend(fontsize=14)
    common.save(figure, out / "text.png")


if __name__ == "__main__":
    with_text = common.make_parser(__doc__)
    with_text.add_argument("--text", default=OWN, help=f"a text file in UTF-8 ({OWN})")
    common.main("text", with_text)
