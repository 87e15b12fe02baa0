"""The table of speeds: python -m tests.benchmarks"""

from __future__ import annotations

from tests.benchmarks.cases import table
from tests.benchmarks.measure import machine

VERDICTS = {True: "yes", False: "no", None: ""}


def main():
    """Print every row as it is measured."""
    print(machine())
    print("\n| what | size | measured | target | met |\n|---|---|---|---|---|")
    for row in table():
        print(f"| {row.what} | {row.size} | {row.result} | {row.target} | {VERDICTS[row.met]} |", flush=True)


if __name__ == "__main__":
    main()
