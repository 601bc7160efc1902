"""Make the tables of results from the CSVs in figures/.

    python -m experiments.claims                                    # print the findings
    python -m experiments.claims README.md experiments/README.md    # and put all tables into these

Every file that defines `finding` is an experiment; `details(rows)`, where defined, is Markdown too.
In a document, `<!-- findings -->` begins the table of all findings, `<!-- findings NAME … -->` that
of some experiments, `<!-- details NAME -->` those details; each ends at `<!-- end -->`.
"""

import importlib
import re
from argparse import Namespace
from pathlib import Path

import memt
import train_toy
from experiments import common
from experiments.text import OWN

FIGURES = Path(__file__).parent.parent / "figures"
PART = re.compile(r"(<!-- (findings|details)((?: \w+)*) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def names():
    """The experiments."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if "\ndef finding(" in file.read_text(encoding="utf-8")]


def complete_rows(name, folder):
    """An experiment, its rows of complete seeds. Raises ValueError or OSError for a bad CSV."""
    experiment, path = importlib.import_module(f"experiments.{name}"), folder / f"{name}.csv"
    runs = len(experiment.jobs(Namespace(seeds=[0], quick=False, text=OWN, out=None)))
    seeds = common.group(common.read_rows(path, experiment.FOUND), "seed").values()
    whole = [row for own in seeds if len(own) == runs for row in own]
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
    return experiment.details(rows)


def filled(text):
    """A document with all its tables made anew."""
    makers = {"findings": findings, "details": details}
    return PART.sub(lambda part: part[1] + makers[part[2]](*part[3].split()), text)


def main():
    """Exits as common.guarded does."""
    parser = train_toy.Parser(description=__doc__, allow_abbrev=False)
    parser.add_argument("documents", nargs="*", type=Path, help="files with the tables' markers")
    parser.add_argument("--names", action="store_true", help="only print the experiments' names")
    args = parser.parse_args()

    def work():
        if args.names:
            return print(*names(), "animation")
        print(findings(), end="")
        for path in args.documents:
            text = path.read_text(encoding="utf-8")
            memt.must(PART.search(text), f"{path}: has no table that begins <!-- findings … -->")
            made = filled(text)
            memt.atomic_write(path, lambda file, made=made: file.write(made.encode()))

    common.guarded(parser, work)


if __name__ == "__main__":
    main()
