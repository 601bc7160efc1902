"""Ask a trained model: your own symbols in, its output, and where each slot got it from.

python -m experiments.ask runs/reverse-membottleneck-0 3 1 4 1 5 9 2 6 5 3
"""

from pathlib import Path

import numpy as np

import memt
import train_toy
from experiments import attention, common


def top(weights, names):
    """The two largest weights (k,), as 'name 61%, name 20%'; names: k of them."""
    order = np.argsort(-weights, kind="stable")[:2]
    return ", ".join(f"{names[i]} {weights[i]:.0%}" for i in order if weights[i]) or "not possible"


def answer(s, params, x):
    """Symbols (n,) -> a table: a line for each slot.

    `memory`: READ of the last layer. `symbols through it`: for the layer where that is clearest.
    `directly`: attention to symbols in the last layer. Means over heads; tokens count from 1.
    """
    n, M = s.length, s.config.memory
    tokens = np.concatenate((x, np.full(n, s.config.symbols)))[None]
    logits, cache = memt.model_forward(params, tokens, s.config)
    output, target = logits[0, n:].argmax(axis=1), train_toy.TASKS[s.task](np.array([x]))[0]
    weights = memt.attention_maps(cache)[-1, 0, :, M + n :].mean(axis=0)
    found = attention.paths(params, s.config, tokens)
    path = found[attention.clearest(found, n)].sum(axis=1)[n:, :n] if found else None
    places = [f"{symbol} (place {i})" for i, symbol in enumerate(x, 1)]
    table = [("slot", "output", "target", *("memory", "symbols through it") * bool(M), "directly")]
    for slot, row in enumerate(weights):
        inside = [top(row[:M], [f"token {i}" for i in range(1, M + 1)])] * bool(M)
        inside += [top(path[slot], places) if path is not None else "never read"] * bool(M)
        direct = top(row[M : M + n], places)
        table.append((str(slot + 1), str(output[slot]), str(target[slot]), *inside, direct))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)


def main():
    """Exits as common.guarded does, or with 2 for bad arguments."""
    parser = train_toy.Parser(prog="ask", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, help="the directory of a run, or its model.npz")
    parser.add_argument("symbols", type=int, nargs="+", help="as many as the model was trained on")
    args = parser.parse_args()
    path = args.run / "model.npz" if args.run.is_dir() else args.run
    try:
        s, params = train_toy.read_model(path)
        right = f"must be {s.length}, each from 0 to {s.config.symbols - 1}"
        good = len(args.symbols) == s.length and {*args.symbols} <= {*range(s.config.symbols)}
        memt.must(good, f"symbols are {' '.join(map(str, args.symbols))}: {right}")
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    common.guarded(parser, lambda: train_toy.say(answer(s, params, args.symbols)))


if __name__ == "__main__":
    main()
