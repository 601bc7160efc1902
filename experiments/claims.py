"""Make the table of findings from the CSVs in figures/.

    python -m experiments.claims                                    # print the table
    python -m experiments.claims README.md experiments/README.md    # and put it into these

Every file that defines `finding` is an experiment. ±: half-width of the 95% confidence interval.
"""

import importlib
import re
from argparse import Namespace
from pathlib import Path

import memt
import train_toy
from experiments import common
from experiments.text import OWN

HERE = Path(__file__).parent
BETWEEN = re.compile(r"(?<=<!-- findings -->\n).*?(?=<!-- /findings -->)", re.DOTALL)


def names():
    """The experiments."""
    files = sorted(HERE.glob("*.py"))
    return [file.stem for file in files if "\ndef finding(" in file.read_text(encoding="utf-8")]


def table(folder=HERE.parent / "figures"):
    """The findings as a Markdown table, a row each. Raises ValueError or OSError for a bad CSV."""
    lines = ["| claim | who claims it | measured | verdict | command |", "|---|---|---|---|---|"]
    for name in names():
        experiment, path = importlib.import_module(f"experiments.{name}"), folder / f"{name}.csv"
        runs = len(experiment.jobs(Namespace(seeds=[0], quick=False, text=OWN, out=None)))
        seeds = common.group(common.read_rows(path, experiment.FOUND), "seed").values()
        whole = [row for own in seeds if len(own) == runs for row in own]
        memt.must(whole, f"{path} has no complete seed: run python -m experiments.{name}")
        lines += [f"| {' | '.join(cells)} | `python -m experiments.{name}` |"
                  for cells in experiment.finding(whole)]  # fmt: skip
    return "\n".join(lines) + "\n"


def main():
    """Exits as common.guarded does."""
    parser = train_toy.Parser(description=__doc__, allow_abbrev=False)
    parser.add_argument("documents", nargs="*", type=Path, help="files with the table's markers")
    parser.add_argument("--names", action="store_true", help="only print the experiments' names")
    args = parser.parse_args()

    def work():
        if args.names:
            return print(*names(), "animation")
        made = table()
        print(made, end="")
        for path in args.documents:
            text, found = BETWEEN.subn(lambda _: made, path.read_text(encoding="utf-8"))
            if found != 1:
                raise ValueError(f"{path}: must have <!-- findings --> and <!-- /findings --> once")
            memt.atomic_write(path, lambda file, text=text: file.write(text.encode()))

    common.guarded(parser, work)


if __name__ == "__main__":
    main()
