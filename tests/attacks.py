"""Attacks that run for minutes, one command each; test_attacks.py runs a little of every one.

    python -m tests.attacks configurations    # 300 random models against PyTorch
    python -m tests.attacks training          # 20,000 steps of every variant, twice
    python -m tests.attacks interruptions     # 50 each of SIGINT, SIGTERM, SIGKILL, disk full
    python -m tests.attacks fuzz              # 50,000 damaged files for memt.load

--count says how many, --seed where the random numbers start: number i of an attack has seed
seed + i, so `--seed S --count 1` replays the one that failed with seed S. Exit status 1: it failed.
"""

import argparse
import io
import json
import random
import resource
import shutil
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

import train_toy  # before NumPy: it asks for one thread

# isort: split
import numpy as np

import memt
from autograd import gradient_errors
from memt import Config

from .support import random_params

# ---------------------------------------------------------------- configurations

ORDINARY, EXTREME = 1e-10, 1e-6  # largest errors allowed


def random_config(rng, extreme: bool) -> Config:
    """Any variant with any option; an extreme one may have width 2 and a single symbol."""
    variant = str(rng.choice(memt.VARIANTS))
    heads = int(rng.integers(1, 5))
    width = heads * int(rng.choice((2, 4, 6))) if extreme else heads * int(rng.choice((4, 6, 8)))
    window = variant in ("transformer", "memtransformer", "memctrl") and rng.random() < 0.5
    share = variant in ("memctrl", "membottleneck") and rng.random() < 0.5
    most = 40 if extreme else 8
    return Config(
        symbols=1 if extreme and rng.random() < 0.3 else int(rng.integers(1, 12)),
        width=width, heads=heads, hidden=int(rng.integers(1, 24)), layers=int(rng.integers(1, 5)),
        memory=0 if variant == "transformer" else int(rng.integers(1, most)),
        variant=variant, share_controller=bool(share),
        window=int(rng.integers(0, 4)) if window else None,
    )  # fmt: skip


def random_read(rng, T: int):
    """All, a slice, or some positions in any order."""
    some = rng.permutation(T)[: rng.integers(1, T + 1)]
    return (None, slice(int(rng.integers(T)), None), some)[rng.integers(3)]


def random_case(seed: int):
    """-> extreme or not, config, float64 params, tokens, targets, read, weights like the logits."""
    rng = np.random.default_rng([70, seed])
    extreme = seed % 2 == 1
    config = random_config(rng, extreme)
    B, T = (int(n) for n in rng.integers(1, (4, 12)))
    params = random_params(config, rng)
    tokens = rng.integers(config.symbols + 1, size=(B, T))
    if extreme:
        tokens = tokens[:, : 1 if rng.random() < 0.3 else T]
        if rng.random() < 0.3:
            tokens = np.full_like(tokens, tokens[0, 0])
        make_extreme(rng, config, params, tokens)
    T = tokens.shape[1]
    read = random_read(rng, T)
    shape = (B, np.arange(T)[slice(None) if read is None else read].size)
    targets = rng.integers(config.symbols, size=shape)
    weights = rng.standard_normal((*shape, config.symbols))
    return extreme, config, params, tokens, targets, read, weights


def make_extreme(rng, config: Config, params, tokens) -> None:
    """Scale logits or attention logits to about 1e4, or neither."""
    kind = rng.integers(3)
    if kind == 0:
        logits, _ = memt.model_forward(params, tokens, config)
        params["out_w"] *= 1e4 / abs(logits).max()
        params["out_b"] *= 1e4 / abs(logits).max()
    elif kind == 1:
        for name in params:
            if name.endswith(".wq"):
                params[name] *= 1e4 / config.width


def ours(params, tokens, targets, config, read, weights):
    """Loss + (logits * weights).sum() -> logits, loss, gradients, by memt."""
    logits, cache = memt.model_forward(params, tokens, config, read)
    loss, loss_cache = memt.cross_entropy_forward(logits, targets)
    dlogits = memt.cross_entropy_backward(1.0, loss_cache) + weights.astype(logits.dtype)
    return {"logits": logits, "loss": loss}, memt.model_backward(dlogits, cache)


def theirs(params, tokens, targets, config, read, weights):
    """The same by the PyTorch twin."""
    import torch
    from torch.nn.functional import cross_entropy

    from .test_torch import twin

    torch.set_num_threads(1)
    tensors = {n: torch.tensor(p, requires_grad=True) for n, p in params.items()}
    logits = twin(tensors, torch.from_numpy(tokens), config)[0]
    logits = logits[:, slice(None) if read is None else read]
    loss = cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
    (loss + (logits * torch.from_numpy(weights)).sum()).backward()
    grads = {n: np.zeros(t.shape) if t.grad is None else t.grad.numpy() for n, t in tensors.items()}
    return {"logits": logits.detach().numpy(), "loss": np.array(loss.item())}, grads


def difference(a, b) -> float:
    """Largest error of outputs and gradients, each of its kind by autograd.gradient_errors."""
    outputs = [gradient_errors({n: x}, {n: b[0][n]})[n] for n, x in a[0].items()]
    return max(*outputs, *gradient_errors(a[1], b[1]).values())


def configurations(count: int, seed: int) -> bool:
    """Prints the largest error by variant, and what float32 loses. True if all are small."""
    errors, float32, bad = defaultdict(list), defaultdict(list), []
    for number in range(seed, seed + count):
        extreme, config, params, *batch = random_case(number)
        batch = [*batch[:2], config, *batch[2:]]
        exact = ours(params, *batch)
        error = difference(exact, theirs(params, *batch))
        errors[config.variant, extreme].append(error)
        if not error <= (EXTREME if extreme else ORDINARY):
            bad.append(f"seed {number}: {error:.1e} {config}")
        if not extreme:
            single = memt.zero_params(config)
            memt.flat(single)[:] = memt.flat(params)
            float32[config.variant].append(difference(ours(single, *batch), exact))
    print(f"seeds {seed} to {seed + count - 1}; largest error against PyTorch in float64")
    print("                 models  ordinary   extreme   float32 against float64: median, largest")
    for v in memt.VARIANTS:
        a, b, c = errors[v, False], errors[v, True], float32[v]
        print(f"{v:<15} {len(a + b):7} {max(a, default=0):9.1e} {max(b, default=0):9.1e}", end="")
        print(f"   {np.median(c) if c else 0:.1e} {max(c, default=0):.1e}")
    print("\n".join(bad) or "all within bounds")
    return not bad


# ---------------------------------------------------------------- training

TINY = {"length": 2, "width": 4, "heads": 2, "hidden": 6, "layers": 1, "batch": 4, "memory": 2}


def long_run(variant: str, steps: int, seed: int):
    """Train all steps -> state, growth of the process's peak after a tenth of them, in MB."""
    given = TINY | ({"memory": 0} if variant == "transformer" else {})
    s = train_toy.default_settings(variant, **given, steps=steps, seed=seed)
    state, solved, train_toy.SOLVED = train_toy.start(s), train_toy.SOLVED, 2  # never
    try:
        for _ in train_toy.training(s, state):
            if state.step == max(steps // 10, 1):
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    finally:
        train_toy.SOLVED = solved
    return state, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def training(count: int, seed: int) -> bool:
    """Two runs of every variant: finite, equal to the bit, and no growth of memory."""
    good = True
    for variant in memt.VARIANTS:
        (a, grown), (b, _) = (long_run(variant, count, seed) for _ in range(2))
        same = np.array_equal(memt.flat(a.params), memt.flat(b.params)) and a.log == b.log
        finite = bool(np.isfinite(memt.flat(a.params)).all() and np.isfinite(a.log).all())
        good &= same and finite and a.step == count and grown < 2
        print(f"{variant:<15} seed {seed}: {a.step} steps, loss {a.log[-1][1]:.3f}, ", end="")
        print(f"finite {finite}, equal bits {same}, memory +{grown:.1f} MB", flush=True)
    return good


# ---------------------------------------------------------------- interruptions

# train_toy on a clock that runs 2000 times faster: a checkpoint every 2.5 ms instead of every 5 s,
# so that many signals arrive while one is written; pictures are left out for speed.
SCRIPT = """
import sys, time
clock = time.perf_counter
time.perf_counter = lambda: 2000 * clock()
sys.modules["matplotlib"] = None
import train_toy
sys.exit(train_toy.main())
"""
RUN = {"length": 3, "width": 8, "heads": 2, "hidden": 16, "layers": 1, "batch": 8, "symbols": 40}
RUN |= {"steps": 400, "lr": 0.01}


def train_command(out: Path, *more: str) -> list[str]:
    """A small run of the command into a directory."""
    return [sys.executable, "-c", SCRIPT, *(f"--{n}={x}" for n, x in RUN.items()),
            "--out", str(out), *more]  # fmt: skip


def cut_short(kind: str, rng: random.Random, out: Path, seconds: float, size: int) -> str:
    """Begin a run and end it by a signal or by a full disk -> what it wrote to stderr."""
    command = train_command(out)
    if kind == "full":  # no file may grow beyond so many blocks of 512 bytes
        blocks = rng.randrange(size // 1024, size // 512 + 1)
        command = ["sh", "-c", 'ulimit -f $0; exec "$@"', str(blocks), *command]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=memt_directory()
    )
    if kind != "full":
        time.sleep(rng.uniform(0, seconds))
        if process.poll() is not None:  # over before its time: once more, and sooner
            process.communicate()
            shutil.rmtree(out)
            return cut_short(kind, rng, out, 0.8 * seconds, size)
        process.send_signal(getattr(signal, kind))
    return process.communicate(timeout=300)[1]


def memt_directory() -> Path:
    """Where train_toy.py lies."""
    return Path(train_toy.__file__).parent


def check_files(out: Path, whole: Path) -> None:
    """Raises unless every file under a final name is whole."""
    if (out / "checkpoint.npz").exists():
        train_toy.read_checkpoint(out)
    if (out / "model.npz").exists():
        memt.load(out / "model.npz")
    if (out / "result.json").exists():
        json.loads((out / "result.json").read_text())
    if (out / "log.csv").exists():
        log = (out / "log.csv").read_text()
        assert log.endswith("\n") and (whole / "log.csv").read_text().startswith(log), "log.csv"


def interruption(kind: str, seed: int, whole: Path, seconds: float) -> str:
    """One run cut short and resumed -> 'equal', or what went wrong; and where it was cut."""
    rng = random.Random(f"{kind}{seed}")
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        said = cut_short(kind, rng, out, seconds, (whole / "checkpoint.npz").stat().st_size)
        parts = list(out.glob("*.part"))
        where = "writing" if parts else "done" if (out / "result.json").exists() else "between"
        if "Traceback" in said and "KeyboardInterrupt" not in said:
            return f"traceback: {said.splitlines()[-1]}"
        try:
            check_files(out, whole)
        except Exception as error:
            return f"damaged: {error}"
        subprocess.run(
            train_command(out, "--resume"), check=True, stdout=subprocess.DEVNULL,
            cwd=memt_directory(),
        )  # fmt: skip
        for name in ("model.npz", "log.csv"):
            if (out / name).read_bytes() != (whole / name).read_bytes():
                return f"not equal: {name}"
        a, b = (memt.read_npz(d / "checkpoint.npz") for d in (out, whole))
        equal = all(np.array_equal(a[n], b[n]) for n in ("vector", "m", "v"))
        return f"equal, {where}" if equal else "not equal: checkpoint.npz"


def interruptions(count: int, seed: int) -> bool:
    """`count` of each kind, two at a time."""
    bad = 0
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(2) as pool:
        whole, began = Path(directory) / "whole", time.perf_counter()
        subprocess.run(
            train_command(whole), check=True, stdout=subprocess.DEVNULL, cwd=memt_directory()
        )
        seconds = time.perf_counter() - began
        for kind in ("SIGINT", "SIGTERM", "SIGKILL", "full"):
            one = partial(interruption, kind, whole=whole, seconds=seconds)
            found = Counter(pool.map(one, range(seed, seed + count)))
            bad += sum(n for what, n in found.items() if not what.startswith("equal"))
            text = "; ".join(f"{n} {what}" for what, n in sorted(found.items()))
            print(f"{kind:<8} seeds {seed} to {seed + count - 1}: {text}", flush=True)
    print(f"{4 * count} runs cut short, {bad} that did not end equal to the uninterrupted one")
    return not bad


# ---------------------------------------------------------------- a fuzzer for memt.load

HOSTILE = [0, -1, 1, 2**31 - 1, 10**30, 1.5, "", "masked", "a\nb", [], {}, None, True, float("nan"),
           "[" * 9999, "x" * 9999]  # fmt: skip
HEADERS = [b"(" * 3000, b"'''", b"-" * 3000, b"{'descr'(((", b"{'descr': 'f4,(', ", b"10" * 40,
           b"(99999999999,)", b"'|O'", b"'<f8'", b"\0", b"True", b"lambda: 0"]  # fmt: skip
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")


def valid_members() -> dict[str, bytes]:
    """Name -> content of every member of a small model's file."""
    config = Config(width=4, heads=2, hidden=3, layers=1, memory=2, symbols=3)
    params = memt.init_params(config, np.random.default_rng(0))
    arrays, members = {"config": np.array(json.dumps(asdict(config))), **params}, {}
    for name, array in arrays.items():
        np.save(file := io.BytesIO(), array)
        members[f"{name}.npy"] = file.getvalue()
    return members


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file with right checksums."""
    with zipfile.ZipFile(file := io.BytesIO(), "w", method) as whole:
        for name, content in members.items():
            whole.writestr(name, content)
    return file.getvalue()


def damage(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, or a piece cut out, doubled, or replaced by a hostile header."""
    at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 50, 1000))
    kind = rng.randrange(5)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + size :]
    if kind == 2:
        return data[: at + size] + data[at:]
    if kind == 3:
        return data[:at] + rng.choice(HEADERS) + data[at + size :]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 3, 20))):
        changed[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(changed)


def damaged_file(seed: int, members: dict[str, bytes]) -> bytes:
    """Damage to the zip, to a member (under a right checksum), or to the configuration."""
    rng, members = random.Random(seed), dict(members)
    kind = rng.randrange(4)
    if kind == 0:
        return damage(rng, zipped(members))
    if kind == 1:
        field = rng.choice((*Config.__dataclass_fields__, "depth"))
        config = asdict(Config(width=4, heads=2, hidden=3, layers=1, memory=2, symbols=3))
        text = json.dumps(config | {field: rng.choice(HOSTILE)})
        text = rng.choice((text, "[" * 99999, damage(rng, text.encode()).decode("latin-1")))
        np.save(file := io.BytesIO(), np.array(text))
        members["config.npy"] = file.getvalue()
        return zipped(members)
    name = rng.choice(list(members))
    if kind == 2:  # the header of an array: the first 128 bytes
        members[name] = damage(rng, members[name][:128]) + members[name][128:]
    else:
        members[name] = damage(rng, members[name])
    return zipped(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def fuzz(count: int, seed: int) -> bool:
    """Every file is refused in one line, or loads as finite parameters; nothing is executed."""
    executed, found = [], Counter()
    sys.addaudithook(lambda event, _: executed.append(event) if event in FORBIDDEN else None)
    members = valid_members()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.npz"
        for number in range(seed, seed + count):
            path.write_bytes(damaged_file(number, members))
            if number == seed + count // 10:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            found[what := load_result(path)] += 1
            if what not in ("refused", "loaded"):
                print(f"seed {number}: {what}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"seeds {seed} to {seed + count - 1}: {count} files, {dict(found)}, "
          f"executed {len(executed)}, memory +{grown:.1f} MB")  # fmt: skip
    return not executed and grown < 50 and set(found) <= {"refused", "loaded"}


def load_result(path: Path) -> str:
    """'refused', 'loaded', or what is wrong."""
    try:
        params, config = memt.load(path)
    except ValueError as error:
        clear = str(error).startswith(repr(str(path))) and "\n" not in str(error)
        return "refused" if clear and len(str(error)) < 500 else f"unclear: {str(error)[:300]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]!r}"
    right = {n: p.shape for n, p in params.items()} == dict(memt.param_shapes(config))
    return "loaded" if right and np.isfinite(memt.flat(params)).all() else "loaded, but wrong"


ATTACKS = {
    "configurations": (configurations, 300),
    "training": (training, 20_000),
    "interruptions": (interruptions, 50),
    "fuzz": (fuzz, 50_000),
}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("--count", type=int, help="models, steps, runs of each kind, files")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    attack, count = ATTACKS[given.attack]
    began = time.perf_counter()
    good = attack(given.count or count, given.seed)
    print(f"{'held' if good else 'FAILED'}, {time.perf_counter() - began:.0f} s")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
