"""Make the tables of results from the CSVs in figures/.

    python -m experiments.claims                                    # print the findings
    python -m experiments.claims README.md experiments/README.md    # and put all tables into these

Every file that defines `finding` is an experiment; `details(rows)`, where defined, is Markdown too.
In a document, `<!-- findings -->` begins the table of all findings, `<!-- findings NAME … -->` that
of some experiments, `<!-- details NAME -->` those details; each ends at `<!-- end -->`.
"""

import importlib
import re
import sys
from argparse import Namespace
from pathlib import Path

import memt
import train_toy
from experiments import common
from experiments.text import OWN

FIGURES = Path(__file__).parent.parent / "figures"
BEGIN = "<!-- (?:findings|details)"
PART = re.compile(
    r"(<!-- (findings|details)((?: \w+)*) -->\n)(?:(?!<!--).)*?(?=<!-- end -->)", re.DOTALL
)


def names():
    """The experiments."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if "\ndef finding(" in file.read_text(encoding="utf-8")]


def complete_rows(name, folder):
    """An experiment, its rows of complete seeds. Raises ValueError or OSError for a bad CSV.

    What all jobs have in common must be the same in all rows, but may differ from the jobs: the
    Python whose text was used, say.
    """
    memt.must(name in names(), f"{name!r} is no experiment: must be one of {', '.join(names())}")
    experiment, path = importlib.import_module(f"experiments.{name}"), folder / f"{name}.csv"
    jobs = experiment.jobs(Namespace(seeds=[0], quick=False, text=OWN, out=None))
    rows = common.read_rows(path, experiment.FOUND, [*jobs[0]])
    varied = [column for column in jobs[0] if len(common.group(jobs, column)) > 1]
    for column in jobs[0].keys() - {*varied, "seed"}:
        values = sorted({row[column] for row in rows})
        memt.must(len(values) < 2, f"{path}: {column} is {' and '.join(values)}: must be the same")
    kinds, whole = sorted(common.key(job, varied) for job in jobs), []
    for (seed,), own in common.group(rows, "seed").items():
        if sorted(common.key(row, varied) for row in own) == kinds:
            whole += own
        elif len(own) <= len(kinds):
            print(f"{path}: seed {seed} is incomplete, left out", file=sys.stderr)
    memt.must(whole, f"{path} has no complete seed: run python -m experiments.{name}")
    return experiment, whole


def findings(*chosen, folder=FIGURES):
    """The findings of some experiments, or of all, as a Markdown table, a row each."""
    table = [("claim", "who claims it", "measured", "verdict", "command")]
    for name in chosen or names():
        experiment, rows = complete_rows(name, folder)
        command = f"`python -m experiments.{name}`"
        table += [(*cells, command) for cells in experiment.finding(rows)]
    return common.markdown(*table)


def details(name, folder=FIGURES):
    """An experiment's details, in Markdown."""
    experiment, rows = complete_rows(name, folder)
    memt.must(hasattr(experiment, "details"), f"{name!r} has no details")
    return experiment.details(rows)


def filled(text):
    """A document with all its tables made anew. Raises ValueError for markers that do not fit."""

    def made(part):
        begin, kind, chosen = part[1], part[2], part[3].split()
        memt.must(kind == "findings" or len(chosen) == 1, f"{begin.strip()}: must name one")
        return begin + (findings(*chosen) if kind == "findings" else details(*chosen))

    good = {part.start() for part in PART.finditer(text)}
    for part in re.finditer(f"{BEGIN}.*", text):
        right = "must be as the help says, and <!-- end --> must come before the next"
        memt.must(part.start() in good, f"marker {part[0]!r}: {right}")
    memt.must(good, "has no table that begins <!-- findings … -->")
    ends = text.count("<!-- end -->")
    memt.must(ends == len(good), f"{ends} markers <!-- end -->, {len(good)} that begin a table")
    return PART.sub(made, text)


def main():
    """Exits as common.guarded does."""
    parser = train_toy.Parser(description=__doc__, allow_abbrev=False)
    parser.add_argument("documents", nargs="*", type=Path, help="files with the tables' markers")
    parser.add_argument("--names", action="store_true", help="only print the experiments' names")
    args = parser.parse_args()

    def work():
        if args.names:
            return print(*names(), "animation", "architectures")
        print(findings(), end="")
        for path in args.documents:
            made = filled(path.read_text(encoding="utf-8"))
            memt.atomic_write(path, lambda file, made=made: file.write(made.encode()))

    common.guarded(parser, work)


if __name__ == "__main__":
    main()
