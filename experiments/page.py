"""A page to play with a trained model: one HTML file for any browser, without server or network.

    python -m experiments.page                       # all variants: figures/memory.html
    python -m experiments.page runs/…/model.npz      # one model: memory.html beside it

Type symbols, follow attention from slot to symbol, remove memory tokens. The page runs the model
itself, in JavaScript (model.js), with rounded weights.
"""

import argparse
import base64
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

import memt
import train_toy
from experiments import attention, common

HERE = Path(__file__).parent
STATES, EVERY = 8, 5  # of a training: how many are shown, steps between those to choose from
EXACT_ON, CHECK_ON = 1000, 200  # sequences on which rounding may change no answer: see `exact`


# ---------------------------------------------------------------- weights as text
def pack(values, bits):
    """Integers from 1 - 2^(bits-1) to 2^(bits-1) - 1 -> base64, `bits` each, highest first."""
    binary = (values.astype(int).reshape(-1, 1) + 2 ** (bits - 1)) >> np.arange(bits)[::-1] & 1
    return base64.b64encode(np.packbits(binary.astype(np.uint8))).decode()


def encode(params, bits):
    """Parameters -> what the page stores of them, and the rounded parameters, float32.

    A weight is an integer times the scale of its column (a vector is one column); a scale is an
    integer of 12 bits times `unit`. Feed-forward nets, which rounding harms least, get 4 bits less.
    """
    columns = {n: (p if p.ndim == 2 else p[:, None]).astype(float) for n, p in params.items()}
    own = [max(8, bits - 4) if n.endswith((".w1", ".w2")) else bits for n in params]
    least = [abs(p).max(axis=0, initial=0) / (2 ** (b - 1) - 1)
             for p, b in zip(columns.values(), own, strict=True)]  # fmt: skip
    unit = float(np.concatenate(least).max() / 2047) or 1.0
    multiples = [np.ceil(scale / unit).clip(1, 2047) for scale in least]
    stored, rounded = {"unit": unit, "bits": own, "scales": [], "weights": []}, {}
    for (name, p), b, multiple in zip(columns.items(), own, multiples, strict=True):
        integers = np.round(p / (multiple * unit))
        stored["scales"].append(pack(multiple, 12))
        stored["weights"].append(pack(integers, b))
        rounded[name] = np.float32(integers * (multiple * unit)).reshape(params[name].shape)
    return stored, rounded


def answers(s, params, size):
    """Outputs (k, size, n) for test sequences: of the whole model; if M allows, without one, three.

    From sequence i, the memory tokens i, i+1, … (mod M) are removed.
    """
    tokens, targets, at, _ = train_toy.make_batch(s, size, train_toy.TEST)
    M, found = s.config.memory, []
    for lost in [0, *(k for k in (1, 3) if k < M)]:
        found.append(np.empty_like(targets))
        for m in range(min(M, size) if lost else 1):
            rows = slice(m, None, M) if lost else slice(None)
            gone = (m + np.arange(lost)) % max(M, 1)
            batch = train_toy.Batch(tokens[rows], targets[rows], at)
            model = train_toy.without(params, s.config, gone) if lost else (params, s.config)
            found[-1][rows] = train_toy.evaluate(*model, batch).outputs
    return np.array(found)


def digest(value):
    """A checksum of what JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def exact(s, params):
    """`encode` with the fewest bits, from 8 to 24, that change no answer.

    Compared on EXACT_ON sequences; with tokens removed, where answers are close calls, on CHECK_ON.
    """
    batch = train_toy.make_batch(s, EXACT_ON, train_toy.TEST)

    def both(params):
        outputs = train_toy.evaluate(params, s.config, batch).outputs
        return outputs.tolist(), answers(s, params, CHECK_ON).tolist()

    right = both(params)
    for bits in range(8, 25):
        stored, rounded = encode(params, bits)
        if both(rounded) == right:
            break
    return stored | {"check": digest(right[1])}, rounded


# ---------------------------------------------------------------- what the page knows of a model
def answer_order(s):
    """Slot -> place of the symbol that belongs there (n,), or None if the task does more."""
    order = np.asarray(train_toy.TASKS[s.task](np.arange(s.length)[None]))[0]
    tokens, targets, *_ = train_toy.make_batch(s, EXACT_ON, train_toy.TEST)
    fits = order.shape == (s.length,) and set(order.tolist()) <= {*range(s.length)}
    return order.tolist() if fits and np.array_equal(tokens[:, order], targets) else None


def memory_order(s, params, order):
    """-> the layer whose WRITE gives the best path (None if none is read), rows of memory by it."""
    n, (maps, found) = s.length, attention.look(s, params, CHECK_ON)
    straight = order or [*range(n)]
    best = [(path.sum(axis=1)[n + np.arange(n), straight].mean(), l) for l, path in found.items()]
    layer = max(best)[1] if best else None
    written = maps if layer is None else maps[[layer]]
    return layer, attention.written_order(written, s.config.memory, n).tolist()


def describe(s, history):
    """Settings, (step, params) in training, the model last -> what the page stores.

    `right`: symbol accuracy; `lost`: memory token removed × slot, % of answers lost (M > 1).
    """
    order, M, states = answer_order(s), s.config.memory, []
    layer, rows = memory_order(s, history[-1][1], order)
    batch = train_toy.make_batch(s, train_toy.TEST_ON, train_toy.TEST)
    few = train_toy.make_batch(s, train_toy.LESIONED_ON, train_toy.TEST)
    for step, params in history:
        params = params | {"memory": params["memory"][rows]}
        stored, rounded = exact(s, params) if step == history[-1][0] else encode(params, 8)
        state = {"step": step, "right": train_toy.evaluate(rounded, s.config, batch).symbol}
        state["lost"] = []
        if M > 1:
            wrong = (train_toy.evaluate(rounded, s.config, few).outputs != few.targets).mean(axis=0)
            lost = 100 * (train_toy.lesion_matrix(rounded, s.config, few) - wrong)
            state["lost"] = lost.clip(min=0).round().astype(int).tolist()
        states.append(state | stored)
    about = {"task": s.task, "length": s.length, "answer": order, "write": layer, "rows": rows}
    shapes = [*memt.param_shapes(s.config).items()]
    about |= {"config": asdict(s.config), "shapes": shapes, "states": states}
    return about | {"sum": digest(about)}


def train(variant):
    """Train with the default recipe -> `describe`; of membottleneck, states of the training too."""
    s = train_toy.default_settings(variant)
    state, history = train_toy.start(s), []

    def note():
        history.append((state.step, {name: p.copy() for name, p in state.params.items()}))

    note()
    for _ in train_toy.training(s, state):
        if state.step % EVERY == 0 or train_toy.finished(s, state):
            note()
    if variant != "membottleneck":
        return describe(s, history[-1:])
    batch = train_toy.make_batch(s, 100, train_toy.VALIDATION)
    right = np.array([train_toy.evaluate(p, s.config, batch).symbol for _, p in history])
    levels = np.linspace(right[0], right[-1], STATES)[:-1]
    chosen = sorted({int(abs(right - level).argmin()) for level in levels} | {len(history) - 1})
    return describe(s, [history[i] for i in chosen])


def html(models):
    """The page as text."""
    data = json.dumps(models, separators=(",", ":")).replace("<", "\\u003c")
    page, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.html", "model.js"))
    return page.replace("/* model.js */", script).replace("/* models */", data)


def main():
    """Exits as common.guarded does, or with 2 for bad arguments."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = train_toy.Parser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("model", nargs="?", type=Path, help="a model.npz written by train_toy.py")
    parser.add_argument("--out", type=Path, help="the HTML file to write")
    args = parser.parse_args()
    out = args.out or (args.model.parent if args.model else Path("figures")) / "memory.html"
    try:
        s, params = train_toy.read_model(args.model) if args.model else (None, None)
        out.parent.mkdir(parents=True, exist_ok=True)
        memt.must(not out.is_dir(), f"{str(out)!r} is a directory: --out takes a file")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if not args.out and out.exists():
        train_toy.say(f"{out} will be overwritten; use --out FILE to write elsewhere")

    def work():
        train_toy.keep_heap()
        models = [describe(s, [(0, params)])] if s else [train(v) for v in memt.VARIANTS]
        train_toy.write_text(out, html(models))
        for model in models:
            variant, bits = model["config"]["variant"], model["states"][-1]["bits"]
            train_toy.say(f"{variant}: weights of {min(bits)} to {max(bits)} bits")
        train_toy.say(f"page: {out} ({out.stat().st_size / 1000:.0f} kB)")

    common.guarded(parser, work)


if __name__ == "__main__":
    main()
