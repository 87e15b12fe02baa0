"""Op orders equal those of torch.distributed.pipelining, token for token."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipesim.ir.verify import verify
from pipesim.schedules import Setting, create

DATA = Path(__file__).parents[1] / "data" / "torch"
SCHEDULES = {
    "GPipe": ("gpipe", {}),
    "1F1B": ("1f1b", {}),
    "Interleaved1F1B": ("interleaved-1f1b", {}),
    "LoopedBFS": ("breadth-first", {"backward_order": "descending"}),
}
FILES = [f for f in sorted(DATA.glob("*.csv")) if f.stem.split("_")[0] in SCHEDULES]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_order_equals_pytorchs(file):
    """Every rank runs exactly the ops that PyTorch's builder emits, in its order."""
    name, p, m, v = re.fullmatch(r"(\w+)_p(\d+)_m(\d+)_v(\d+)", file.stem).groups()
    ours, options = SCHEDULES[name]
    if int(v) > 1:
        options = {**options, "chunks": int(v)}
    program = create(ours, **options).program(Setting(int(p), int(m)))
    verify(program)
    assert program.to_csv() == file.read_text()


def test_all_golden_files_are_there():
    """The parametrisation above is not empty."""
    assert len(FILES) == 17
