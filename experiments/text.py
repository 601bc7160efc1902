"""Does memory help language modelling? Masked characters of a text, global or local attention.

    python -m experiments.text                # a text that ships with Python
    python -m experiments.text --text FILE    # another, UTF-8

The paper claims that it helps language models and translation; this setting is ours. In each
span of characters, some positions are masked, the same in the whole batch; the loss is the
cross-entropy there. The first nine tenths of the text are for training; the last tenth is held out.
M = 8 is trained once with the transformer's number of steps, and once with its compute. The
learning rate is the best of 2, 4 and 8e-3 for M = 0, on seeds 100 and 101.
"""

import hashlib
import platform
import pydoc_data.topics
from collections import Counter
from pathlib import Path

import numpy as np

import train_toy
from experiments import common

T, R = 64, 16  # characters in a span, masked ones
M, RADIUS, STEPS = 8, 4, 2000
MODEL = {"width": 64, "heads": 4, "hidden": 128, "layers": 2, "batch": 16, "lr": 4e-3}
OWN = "pydoc_data.topics"
# What a counting model looks at: columns of a character (2) and two neighbours on either side
NEAR = sorted((range(i, j) for i in (2, 1, 0) for j in (3, 4, 5)), key=len)
BASELINES = {"unigram": [range(2, 3)], "bigram": [range(2, 3), range(1, 3)], "n-gram": NEAR}
FOUND = ("bits", "baselines")


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
    if len({*text}) > 6000:  # tally would overflow
        raise ValueError(f"--text {name!r} has {len({*text})} different characters: at most 6000")
    if len(text) < 10 * T:
        raise ValueError(f"--text {name!r} has {len(text)} characters: needs at least {10 * T}")
    return text, hashlib.sha256(text.encode()).hexdigest()[:12]


def settings(job, symbols):
    """The settings of the model and its training."""
    own = {name: job[name] for name in (*MODEL, "memory", "window", "steps", "seed")}
    variant = "memtransformer" if job["memory"] else "transformer"
    return train_toy.default_settings(variant, symbols=symbols, **own)


def jobs(args):
    """Windows × models; the last model has fewer steps, so that its compute equals M = 0's."""
    text, sha256 = read_text(args.text)
    if args.text != OWN:
        args.out = args.out or Path("runs/text")  # figures/ holds the results for OWN
    about = {"text": args.text, "sha256": sha256, "python": platform.python_version()}
    about |= {"length": T, "blanked": R} | MODEL
    steps, found = 20 if args.quick else STEPS, []
    for seed in args.seeds:
        for window in (None, RADIUS):
            plain = about | {"window": window, "memory": 0, "seed": seed, "budget": "steps"}
            plain["steps"] = steps
            ours = plain | {"memory": M}
            models = (settings(job, len(set(text))).config for job in (plain, ours))
            cheap, dear = (common.flops(config, T, R) for config in models)
            equal = {"budget": "compute", "steps": round(steps * cheap / dear)}
            found += [plain, ours, ours | equal]
    return found


def windows(ids, starts, rng, symbols):
    """A Batch: T characters from each start, R of them masked; the targets are those."""
    x, at = ids[starts[:, None] + np.arange(T)], np.sort(rng.choice(T, R, replace=False))
    tokens = x.copy()
    tokens[:, at] = symbols
    return train_toy.Batch(tokens, x[:, at], at)


def held_out(ids, symbols):
    """All adjacent spans, as Batches; the same masks for all models."""
    rng, starts = np.random.default_rng(0), np.arange(0, len(ids) - T + 1, T)
    return [windows(ids, starts[i : i + 64], rng, symbols) for i in range(0, len(starts), 64)]


def model_bits(s, params, batches):
    """Bits per masked character."""
    losses = [train_toy.evaluate(params, s.config, batch).loss for batch in batches]
    return float(np.average(losses, weights=[len(b.tokens) for b in batches]) / np.log(2))


def tally(rows, train, symbols):
    """How often each row of characters (n, k) occurs among the rows of train (N, k)."""
    digits = (symbols + 1) ** np.arange(train.shape[1])
    counts = Counter((train @ digits).tolist())
    return np.array([counts[row] for row in (rows @ digits).tolist()])


def count_bits(ids, batches, symbols):
    """Bits per masked character of the BASELINES, which count characters in the training text ids.

    From short to long, each context corrects the probability p that the earlier ones gave: (its
    count with the character + 8p) / (its count + 8). What is masked, or not in the span, is the
    number `symbols`, which no count contains, so such a context leaves p as it is.
    """
    train, rows, found = np.lib.stride_tricks.sliding_window_view(ids, 5), [], []
    for tokens, targets, at, _ in batches:
        padded = np.pad(tokens, ((0, 0), (2, 2)), constant_values=symbols)
        near = padded[:, at[:, None] + np.arange(5)]  # (B, R, 5)
        near[:, :, 2] = targets
        rows.append(near.reshape(-1, 5))
    rows = np.concatenate(rows)
    for contexts in BASELINES.values():
        p = 1 / symbols
        for columns in contexts:
            others = [i for i in columns if i != 2]
            both, alone = (tally(rows[:, own], train[:, own], symbols) for own in (columns, others))
            p = (both + 8 * p) / (alone + 8)
        found.append(float(-np.log2(p).mean()))
    return found


def run(job):
    """Train, then measure on held-out text.

    Raises ValueError if the text has changed since the job was made.
    """
    text, sha256 = read_text(job["text"])
    if sha256 != job["sha256"]:
        raise ValueError(f"--text {job['text']!r} has changed since the start: restart the command")
    symbols, ids = np.unique(list(text), return_inverse=True)
    ids, test = np.split(ids, [len(ids) * 9 // 10])
    s = settings(job, len(symbols))

    def batches(_, stream, step):  # also for validation, whose result is not used
        rng = np.random.default_rng([s.seed, stream, step])
        starts = rng.integers(len(ids) - T + 1, size=s.batch)
        return windows(ids, starts, rng, len(symbols))

    state = common.trained(s, batches)
    spans = held_out(test, len(symbols))
    bits = model_bits(s, state.params, spans)
    return {"bits": bits, "baselines": count_bits(ids, spans, len(symbols))}


def change(rows, window, budget):
    """Bits with memory minus bits without, one per seed; lower is better."""
    ours = common.by_seed(rows, "bits", window=window, memory=M, budget=budget)
    return ours - common.by_seed(rows, "bits", window=window, memory=0)


def name_of(window):
    return f"local attention (window {window})" if window else "global attention"


def finding(rows):
    found = []
    for window, who in ((None, "paper; reported: about 1% lower perplexity"), (RADIUS, "ours")):
        saved = {f"equal {what}": -change(rows, window, what) for what in ("steps", "compute")}
        measured, verdict = common.least(saved, "bits per masked character", 3)
        plain = common.by_seed(rows, "bits", window=window, memory=0).mean()
        _, bigram, ngram = common.numbers(rows, "baselines").mean(axis=0)
        measured = f"M = 0 minus M = {M}: {measured}. M = 0 has {plain:.2f}, a bigram "
        measured += f"{bigram:.2f}, an n-gram {ngram:.2f}"
        claim = f"Memory helps language modelling with {name_of(window)}"
        found.append((claim, who, measured, verdict))
    return found


def draw(rows, out):
    """Left: bits, with the baselines as lines. Right: what memory changes."""
    first = rows[0]
    note = f"held-out {first['text']}, {R} of {T} characters masked, 2 layers, width "
    note += f"{first['width']}, {first['steps']} steps (equal compute: fewer); n-gram: counts "
    note += "of up to two visible neighbours on either side; 95% confidence intervals"
    figure, ((left, right),) = common.slide(finding(rows), note, rows, columns=2)
    bits, changes = {}, {}
    for window, kind in ((None, "global"), (RADIUS, "local")):
        for memory in (0, M):
            own = {"window": window, "memory": memory, "budget": "steps"}
            bits[f"{kind}\nM = {memory}"] = common.by_seed(rows, "bits", **own)
        for budget in ("steps", "compute"):
            changes[f"{kind}\nequal\n{budget}"] = change(rows, window, budget)
    common.gains(left, bits)
    common.gains(right, changes)
    for name, level in zip(BASELINES, common.numbers(rows, "baselines").mean(axis=0), strict=True):
        left.axhline(level, color="0.4", linestyle=":", lw=2)
        left.text(-0.45, level, name, va="top" if name == "n-gram" else "bottom", color="0.3")
    low = min(values.min() for values in bits.values())
    left.set(ylabel="bits per masked character", ylim=(0.7 * low, None), title="lower is better")
    right.set(ylabel="bits", title=f"M = {M} minus M = 0: above 0 is worse")
    common.save(figure, out / "text.png")


if __name__ == "__main__":
    with_text = common.make_parser(__doc__)
    with_text.add_argument("--text", default=OWN, help=f"a text file in UTF-8 ({OWN})")
    common.main("text", with_text)
