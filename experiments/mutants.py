"""Mutation testing: do the tests notice random single changes of the syntax tree?

    python -m experiments.mutants --seed 1 --count memt=120 autograd=60 experiments=100 --jobs 2

Docstrings, messages, annotations and the looks of pictures are not changed. A mutant is killed if a
test file fails or takes 300 seconds; those naming the mutated file most are run first. Unix only.
"""

import ast
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import train_toy

ROOT = Path(__file__).parents[1]
INSTRUMENTS = ("benchmark.py", "stress.py", "mutants.py")  # tools with no fixed expected output
LOOKS = "alpha cmap color description dpi epilog figsize fontsize frameon ha help layout lw pad va"
PAIRS = """Add Sub  Mult Div  Pow MatMult  FloorDiv Mod  LShift RShift  BitAnd BitOr  And Or
           Lt LtE  Gt GtE  Eq NotEq  Is IsNot  In NotIn""".split()  # noqa: SIM905
SWAPS = {getattr(ast, a): getattr(ast, PAIRS[i ^ 1]) for i, a in enumerate(PAIRS)}
SWAPS[ast.BitXor] = ast.BitOr
MOVES = {bool: lambda x: [not x], int: lambda x: [x + 1, x - 1, 2 * x], float: lambda x: [2 * x]}
ALTERNATIVES = {  # type of a node -> what may replace it
    ast.BinOp: lambda n: [ast.BinOp(n.left, SWAPS[type(n.op)](), n.right), n.left, n.right],
    ast.BoolOp: lambda n: [ast.BoolOp(SWAPS[type(n.op)](), n.values), n.values[0], n.values[-1]],
    ast.Compare: lambda n: [ast.Compare(n.left, [SWAPS[type(n.ops[0])]()], n.comparators[:1])],
    ast.UnaryOp: lambda n: [n.operand],
    ast.Constant: lambda n: [*map(ast.Constant, MOVES.get(type(n.value), lambda x: [])(n.value))],
    ast.Attribute: lambda n: [n.value] if n.attr == "T" else [],
    ast.Slice: lambda n: [ast.Slice(None, n.upper, n.step), ast.Slice(n.lower, None, n.step)],
    ast.Call: lambda n: [ast.Call(n.func, [*n.args[1::-1], *n.args[2:]], n.keywords)],
    ast.keyword: lambda n: [ast.keyword(None, ast.Dict([], []))],  # **{}: the argument is dropped
    ast.comprehension: lambda n: [ast.comprehension(n.target, n.iter, [], n.is_async)],
    ast.Assign: lambda n: [ast.Pass()] if hasattr(n.targets[0], "value") else [],  # x.y or x[i]
    ast.AugAssign: lambda n: [ast.Pass(), ast.Assign([n.target], n.value, lineno=0)],
}
for kind in (ast.If, ast.While, ast.IfExp):
    ALTERNATIVES[kind] = lambda n: [type(n)(ast.UnaryOp(ast.Not(), n.test), n.body, n.orelse)]
for kind in (ast.Expr, ast.Return, ast.Raise, ast.Continue, ast.Break):
    ALTERNATIVES[kind] = lambda n: [ast.Pass()]
PYTEST = """ulimit -v 16000000; ulimit -t 900; export PYTHONPATH="$PWD" OPENBLAS_NUM_THREADS=1
exec timeout --foreground 300 "$0" -m pytest -xq -p no:cacheprovider "tests/$1" >/dev/null 2>&1"""


def nodes(parent, where):
    """Every node below that may change, and the name of the function that it is in."""
    where += f".{parent.name}" if isinstance(parent, (ast.FunctionDef, ast.ClassDef)) else ""
    types = getattr(parent, "annotation", None), getattr(parent, "returns", None)
    for node in ast.iter_child_nodes(parent):
        match node:
            case ast.Expr(ast.Constant()) | ast.If(ast.Compare(ast.Name("__name__"))):
                pass  # a docstring; the command's entry
            case ast.Call(ast.Name("must"), [condition, _]):
                yield from nodes(ast.Expr(condition), where)  # not the message
            case _ if node not in types and getattr(node, "arg", "") not in LOOKS.split():
                yield node, where
                yield from () if isinstance(node, ast.Raise) else nodes(node, where)


def draw(group, seed):
    """Yield mutants of a file or a directory in random order: path, source, what changed."""
    paths = [*ROOT.glob(f"{group}.py"), *sorted(ROOT.glob(f"{group}/*.py"))]
    trees = {p: ast.parse(p.read_text("utf-8")) for p in paths if p.name not in INSTRUMENTS}
    found = [(path, *x) for path, tree in trees.items() for x in nodes(tree, path.stem)]
    rng = random.Random(f"{group} {seed}")
    for path, node, where in rng.sample(found, len(found)):
        options = ALTERNATIVES.get(type(node), lambda n: [])(node)
        options = [new for new in options if ast.unparse(new) != ast.unparse(node)]
        if options:
            new, kept = rng.choice(options), (type(node), vars(node))
            sides = " -> ".join(ast.unparse(x).partition("\n")[0] for x in (node, new))
            node.__class__, node.__dict__ = type(new), vars(new)
            source = ast.unparse(ast.fix_missing_locations(trees[path]))
            node.__class__, node.__dict__ = kept
            yield path, source, f"{where}, line {getattr(node, 'lineno', '?')}: {sides}"


def killer(path, source, _change):
    """The first test file that fails in a copy of the project with this mutant, or None."""
    tests = sorted(ROOT.glob("tests/test_*.py"), key=lambda t: -t.read_text().count(path.stem))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tree:
        skip = shutil.ignore_patterns(".git", ".venv", "*cache*", "runs", "*.egg-info")
        shutil.copytree(ROOT, tree, ignore=skip, dirs_exist_ok=True)
        Path(tree, path.relative_to(ROOT)).write_text(source, "utf-8")
        for test in tests:
            if subprocess.run(["sh", "-c", PYTEST, sys.executable, test.name], cwd=tree).returncode:
                return test.name


def main():
    """The command: prints every survivor, then how many were killed."""
    parser = train_toy.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="seed of the random choice (1)")
    parser.add_argument("--count", nargs="+", required=True, help="such as memt=120 exercises=40")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tested at a time (1)")
    given = parser.parse_args()
    shares = [text.partition("=")[::2] for text in given.count]
    if not all(n.isdecimal() and next(draw(group, 0), None) for group, n in shares):
        parser.error(f"--count is {' '.join(given.count)}: must be such as memt=120 exercises=40")
    mutants = [x for group, n in shares for x in islice(draw(group, given.seed), int(n))]
    pool, killed, tried, path = ThreadPoolExecutor(given.jobs), 0, 0, ROOT / "memt.py"
    try:
        if test := killer(path, ast.unparse(ast.parse(path.read_bytes())), "nothing"):
            sys.exit(f"tests/{test} fails on the unchanged code: fix it first")
        for mutant, test in zip(mutants, pool.map(lambda m: killer(*m), mutants), strict=True):
            tried, killed = tried + 1, killed + bool(test)
            print("" if test else f"survived: {mutant[2]}\n", end="", flush=True)
    except KeyboardInterrupt:
        pool.shutdown(cancel_futures=True)
    print(f"seed {given.seed}: {killed} of {tried} mutants killed")


if __name__ == "__main__":
    main()
