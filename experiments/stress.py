"""Stress tests that take minutes. Needs torch; POSIX only.

    python -m experiments.stress configurations    # 300 random models against PyTorch
    python -m experiments.stress training          # 20,000 steps of each model, twice
    python -m experiments.stress interruptions     # 50 runs cut short in each of four ways
    python -m experiments.stress fuzz              # 50,000 damaged files for memt.load
    python -m experiments.stress students          # a class of 100 files, nine in ten harmful

--count: how many; --seed: the first seed. Case i has the seed SEED + i, so that
`--seed S --count 1` repeats a failure with seed S. Exit status 1: something failed.
"""

import csv
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

import memt
import train_toy
from autograd import gradient_errors
from experiments.bridge import reference_loss_and_grads

# ---------------------------------------------------------------- configurations
BOUNDS = {"ordinary": 1e-10, "extreme": 1e-6}  # largest allowed error of a kind


def random_config(rng, extreme):
    """Any variant with any option; an extreme one may have a head width of 2."""
    symbols, heads, hidden, layers, outputs = map(int, rng.integers(1, (12, 5, 24, 5, 9)))
    shape = symbols, heads * int(rng.choice((2, 4, 6) if extreme else (4, 6, 8))), heads
    variant = str(rng.choice(memt.VARIANTS))
    while True:
        memory, share = int(rng.integers(40 if extreme else 8)), bool(rng.integers(2))
        options = share, rng.choice([None, 0, 1, 3]), rng.choice([None, outputs])
        try:
            return memt.Config(*shape, hidden, layers, memory, variant, *options)
        except ValueError:  # not every variant has every option
            continue


def random_case(seed):
    """-> ordinary or extreme, float64 params, then tokens, targets, config, at, mask.

    Extreme: the same token everywhere, attention logits or logits of about 1e4, or none of these.
    """
    rng, extreme = np.random.default_rng([70, seed]), seed % 2 == 1
    config, (B, T) = random_config(rng, extreme), rng.integers(1, (4, 12))
    params = memt.init_params(config, rng, np.float64)
    memt.flat(params)[:] += 0.3 * rng.standard_normal(memt.flat(params).shape)
    tokens = rng.integers(config.symbols + 1, size=(B, T))
    kind = rng.choice(("tokens", ".wq", "out_w", "none")) if extreme else "none"
    tokens[:] = tokens[0, 0] if kind == "tokens" else tokens
    for name, p in params.items():
        p *= 1e4 / config.width if name.endswith(kind) else 1
    some = rng.permutation(T)[: rng.integers(1, T + 1)]
    at = (None, slice(int(rng.integers(T)), None), some)[rng.integers(3)]
    mask = rng.random((B, 1, config.memory + T)) < 0.8  # columns that no row may attend to
    mask[:, :, 0] = True
    mask = mask if rng.random() < 0.3 and (config.memory or config.window is None) else None
    shape = B, np.arange(T)[slice(None) if at is None else at].size
    targets = rng.integers(config.outputs or config.symbols, size=shape)
    return "extreme" if extreme else "ordinary", params, tokens, targets, config, at, mask


def configurations(count, seed):
    """Print gradient errors by variant, and those of float32 -> whether all are within bounds."""
    torch.set_num_threads(1)
    found, bad = defaultdict(list), 0
    for number in range(seed, seed + count):
        kind, params, *batch = random_case(number)
        config, (loss, grads) = batch[2], memt.loss_and_grads(params, *batch)
        reference, right = reference_loss_and_grads(params, *batch)
        of_loss = abs(loss - reference) / max(1, abs(loss))
        error = max(of_loss, *gradient_errors(grads, right).values())
        found[config.variant, kind].append(error)
        if not error <= BOUNDS[kind]:
            bad += 1
            print(f"seed {number}: {error:.1e} {config}")
        if kind == "ordinary":
            single = {n: p.astype(np.float32) for n, p in params.items()}
            _, rough = memt.loss_and_grads(memt.to_params(config, single), *batch)
            found[config.variant, "float32"].append(max(gradient_errors(rough, grads).values()))
    for (variant, kind), errors in sorted(found.items()):
        against = "float64" if kind == "float32" else "PyTorch"
        print(f"{variant:<15} {kind:<8} {len(errors):4} models, error against {against}: "
              f"median {np.median(errors):.1e}, largest {max(errors):.1e}")  # fmt: skip
    return not bad


# ---------------------------------------------------------------- training
TINY = {"length": 2, "width": 4, "heads": 2, "hidden": 6, "layers": 1, "batch": 4}


def peak():
    """Peak RAM of this process so far, in MB."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def long_run(variant, optimizer, steps, seed):
    """Train all steps -> state, growth of the peak RAM after the first tenth of them, in MB."""
    given = {"memory": 0 if variant == "transformer" else 2, "optimizer": optimizer}
    s = train_toy.default_settings(variant, **TINY, **given, steps=steps, seed=seed)
    with patch.object(train_toy, "SOLVED", 2):  # never
        for state in train_toy.training(s, train_toy.start(s)):
            if state.step == max(steps // 10, 1):
                before = peak()
    return state, peak() - before


def training(count, seed):
    """Two runs of each kind must be finite and bit-identical, without growth of peak RAM."""
    good = True
    for variant, optimizer in itertools.product(memt.VARIANTS, train_toy.OPTIMIZERS):
        (a, grown), (b, _) = (long_run(variant, optimizer, count, seed) for _ in range(2))
        same = np.array_equal(memt.flat(a.params), memt.flat(b.params)) and a.log == b.log
        finite = bool(np.isfinite(memt.flat(a.params)).all() and np.isfinite(a.log).all())
        good &= same and finite and a.step == count and grown < 2
        print(f"{variant:<15} {optimizer:<5} seed {seed}: {a.step} steps, loss {a.log[-1][1]:.3f}, "
              f"finite {finite}, bit-identical {same}, RAM +{grown:.1f} MB")  # fmt: skip
    return good


# ---------------------------------------------------------------- interruptions
# train_toy on a clock that is 2000 times too fast: a checkpoint every 2.5 ms instead of every 5 s,
# so that many signals arrive while one is being written. Without pictures, for speed.
SCRIPT = """
import sys, time, runpy
clock = time.perf_counter
time.perf_counter = lambda: 2000 * clock()
sys.modules["matplotlib"] = None
runpy.run_path("train_toy.py", run_name="__main__")
"""
RUN = "--length=3 --width=8 --heads=2 --hidden=16 --layers=1 --batch=8 --symbols=40 --steps=400"
FILES = ("checkpoint.npz", "model.npz", "log.csv", "result.json")
WAYS = ("SIGINT", "SIGTERM", "SIGKILL", "full disk")


def begin(out, *more, before=()):
    """Start a small run of train_toy into a directory."""
    command = [*before, sys.executable, "-c", SCRIPT, *RUN.split(), "--lr=0.01", f"--out={out}"]
    where = {"cwd": Path(train_toy.__file__).parent, "stdout": subprocess.DEVNULL}
    return subprocess.Popen([*command, *more], **where, stderr=subprocess.PIPE, text=True)


def cut_short(way, rng, out, seconds, size):
    """Begin a run and end it by a signal or by a full disk -> what it wrote to stderr."""
    if way == "full disk":  # no file may exceed this many blocks of 512 bytes
        blocks = str(rng.randrange(size // 1024, size // 512 + 1))
        process = begin(out, before=("sh", "-c", 'ulimit -f $0; exec "$@"', blocks))
        return process.communicate(timeout=300)[1]
    process = begin(out)
    time.sleep(rng.uniform(0, 0.9 * seconds))
    process.send_signal(getattr(signal, way))
    return process.communicate(timeout=300)[1]


def content(path):
    """Everything in a file except measured times. Raises if it is damaged."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays if name != "about"}
    text = path.read_text()
    return json.loads(text) | {"seconds": 0} if path.suffix == ".json" else text


def interruption(way, seed, whole, seconds):
    """Cut a run short and resume it -> 'equal' and where it was cut, or what went wrong."""
    rng = random.Random(f"{way}{seed}")
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        said = cut_short(way, rng, out, seconds, (whole / "checkpoint.npz").stat().st_size)
        if "Traceback" in said and "KeyboardInterrupt" not in said:  # Python was still starting
            return f"traceback: {said.splitlines()[-1]}"
        where = "writing" if [*out.glob("*.part")] else "between"
        try:
            found = {name: content(out / name) for name in FILES if (out / name).exists()}
            begin(out, *["--resume"] * ("checkpoint.npz" in found)).communicate(timeout=300)
            good = content(whole / "log.csv").startswith(found.get("log.csv", ""))
            bad = [name for name in FILES if content(out / name) != content(whole / name)]
        except Exception as error:
            return f"damaged: {error}"
        return f"equal, {where}" if good and not bad else f"not equal: {bad or 'first log.csv'}"


def interruptions(count, seed):
    """Cut `count` runs short in each way, two at a time -> whether all ended equal."""
    good = True
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(2) as pool:
        whole, began = Path(directory) / "whole", time.perf_counter()
        begin(whole).communicate(timeout=300)
        seconds = time.perf_counter() - began
        for way in WAYS:
            one = partial(interruption, way, whole=whole, seconds=seconds)
            found = Counter(pool.map(one, range(seed, seed + count)))
            good &= all(what.startswith("equal") for what in found)
            text = "; ".join(f"{n} {what}" for what, n in sorted(found.items()))
            print(f"{way:<9} {count} runs: {text}", flush=True)
    return good


# ---------------------------------------------------------------- damaged files for memt.load
SMALL = memt.Config(width=4, heads=2, hidden=3, layers=1, memory=2, symbols=3)
PIECES = [b"(" * 3000, b"[" * 99999, b"'''", b"-" * 3000, b"{'descr'(((", b"{'descr': 'f4,(', ",
          b"(99999999999,)", b"'|O'", b"'<f8'", b"True", b"null", b"lambda: 0", b""]  # fmt: skip
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")


def damaged(rng, data):
    """Truncated data, or up to three pieces replaced, half of them in the first 128 bytes."""
    if rng.random() < 0.2:
        return data[: rng.randrange(len(data))]
    for _ in range(rng.choice((1, 1, 1, 3))):
        at = rng.randrange(rng.choice((min(128, len(data)), len(data))))
        size = rng.choice((0, 1, 9))
        data = data[:at] + rng.choice((*PIECES, rng.randbytes(size))) + data[at + size :]
    return data


def damaged_file(seed):
    """A damaged file, or one with a damaged array or configuration under a correct checksum."""
    rng, whole = random.Random(seed), io.BytesIO()
    params = memt.init_params(SMALL, np.random.default_rng(0))
    arrays = {"config": json.dumps(asdict(SMALL)), **params}
    hit = rng.choice((None, "config", rng.choice([*params])))
    with zipfile.ZipFile(whole, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as out:
        for name, array in arrays.items():
            np.save(file := io.BytesIO(), array)
            data = damaged(rng, file.getvalue()) if name == hit else file.getvalue()
            out.writestr(f"{name}.npy", data)
    return whole.getvalue() if hit else damaged(rng, whole.getvalue())


def load_result(path):
    """-> 'refused', 'loaded', or what is wrong."""
    try:
        params, config = memt.load(path)
    except ValueError as error:
        clear = str(error).startswith(repr(str(path))) and "\n" not in str(error)
        return "refused" if clear and len(str(error)) < 500 else f"unclear: {str(error)[:300]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]!r}"
    right = {n: p.shape for n, p in params.items()} == dict(memt.param_shapes(config))
    return "loaded" if right and np.isfinite(memt.flat(params)).all() else "loaded, but wrong"


def fuzz(count, seed):
    """Every file must be refused in one line or load as finite parameters; none may run code."""
    executed, found = [], Counter()
    sys.addaudithook(lambda event, _: executed.append(event) if event in FORBIDDEN else None)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.npz"
        for number in range(seed, seed + count):
            path.write_bytes(damaged_file(number))
            if number == seed + count // 10:
                before = peak()
            found[what := load_result(path)] += 1
            if what not in ("refused", "loaded"):
                print(f"seed {number}: {what}")
    grown = peak() - before
    print(f"{count} files: {dict(found)}, executed {len(executed)}, peak RAM +{grown:.1f} MB")
    return not executed and grown < 50 and set(found) <= {"refused", "loaded"}


# ---------------------------------------------------------------- a class of students
HARM = {  # what is put at the end of a file -> the state of all its exercises
    "": None,
    "while True: pass": "time",
    "while True: print('x' * 9999)": "output",
    "x = bytes(3 * 2**30)": "memory",
    "import os; os._exit(0)": "exit",
    "raise SystemExit": "exit",
    "import os; os.fork()": "error",
    "import subprocess; subprocess.run(['true'])": "error",
    "open('huge', 'wb').truncate(2**40)": "error",
    "x = (": "syntax",
}


def students(count, seed):
    """Every file of a class must get its row, whatever the others do, and nothing may be left."""
    grade = [sys.executable, "-m", "exercises.grade"]
    where = {"cwd": Path(train_toy.__file__).parent, "stdout": subprocess.DEVNULL, "check": True}
    with tempfile.TemporaryDirectory() as directory:
        folder, files = Path(directory), {}
        for number in range(seed, seed + count):
            harm, blank = [*HARM][number % len(HARM)], number % 9 + 1
            files[f"{number:05}.py"] = HARM[harm], blank
            subprocess.run([*grade, "start", folder / f"{number:05}.py", str(blank)], **where)
            with open(folder / f"{number:05}.py", "a") as file:
                file.write(harm)
        subprocess.run([*grade, "class", folder], **where, env=os.environ | {"MEMT_LIMIT": "5"})
        (_, _, *names), *found = csv.reader((folder / "class.csv").read_text().splitlines())
        left = len([*folder.iterdir()]) - count - 2
    wrong = []
    for name, *row in found:
        state, blank = files[name]
        cells = [state or ("-" if i == blank else "ok") for i, _ in enumerate(names, 1)]
        wrong += [[name, *row]] if row != [str(cells.count("ok")), *cells] else []
    print(f"{len(found)} rows, {len(wrong)} wrong, {left} other files", *wrong, sep="\n")
    return len(found) == count and not wrong and not left


STRESS = {"configurations": 300, "training": 20_000, "interruptions": 50, "fuzz": 50_000}
STRESS |= {"students": 100}


def main():
    """The command."""
    parser = train_toy.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=STRESS)
    parser.add_argument("--count", type=int, help="models, steps, runs for each way, files")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    given, began = parser.parse_args(), time.perf_counter()
    good = globals()[given.what](given.count or STRESS[given.what], given.seed)
    print(f"{'passed' if good else 'FAILED'}, {time.perf_counter() - began:.0f} s")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
