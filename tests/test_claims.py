"""The README's table of claims says what the committed CSVs say."""

import experiments  # noqa: F401, I001 (first: it asks for one BLAS thread)

import re
from pathlib import Path

import pytest

from experiments import claims, common

ROOT = Path(__file__).parent.parent


def cells(table):
    """Rows of a markdown table below its head, as lists of cells."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def numbers(cell):
    return re.findall(r"[+-]?\d+(?:\.\d+)?", cell)


def readme_table():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    between = re.search(r"<!-- claims -->(.*)<!-- /claims -->", text, re.DOTALL)
    assert between, "README.md has no <!-- claims --> … <!-- /claims -->"
    return cells(between[1])


def test_every_number_of_the_table_is_that_of_the_csv():
    stated, measured = readme_table(), cells(claims.table())
    assert [row[3] for row in stated] == [row[3] for row in measured]
    for said, found in zip(stated, measured, strict=True):
        for cell, should in zip(said, found, strict=True):
            assert numbers(cell) == numbers(should), said[0]
            assert [w for w in ("overlap", "apart") for _ in re.findall(w, cell)] == [
                w for w in ("overlap", "apart") for _ in re.findall(w, should)
            ]


def test_a_run_that_never_got_there_is_counted():
    rows = [{"goal": "100"}, {"goal": ""}, {"goal": "300"}]
    assert claims.goal(rows) == "200 ± 141 (2 of 3 runs)"
    assert claims.goal(rows[1:]) == "1 of 2 runs" and claims.goal(rows[::2]) == "200 ± 141"


@pytest.mark.parametrize("name", sorted({claim[0] for claim in claims.CLAIMS}))
def test_committed_results_have_five_seeds_and_a_picture(name):
    rows = common.read_rows(ROOT / "figures" / f"{name}.csv")
    seeds = common.group(rows, "seed")
    assert len(seeds) >= 5
    assert len({len(own) for own in seeds.values()}) == 1, "a run is missing"
    assert (ROOT / "figures" / f"{name}.png").stat().st_size > 10_000
