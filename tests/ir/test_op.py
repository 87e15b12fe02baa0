"""Tokens name ops exactly as PyTorch's schedule files do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesim.errors import ProgramError
from pipesim.ir.op import Kind, Op, Pair, parse

ops = st.builds(Op, st.integers(0, 10**6), st.sampled_from(list(Kind)), st.integers(0, 10**6))


@given(ops)
def test_tokens_parse_back(op):
    """Every op is what its token parses to."""
    assert parse(str(op)) == op


@given(ops, ops)
def test_pairs_parse_back(first, second):
    """Overlapped pairs too, with and without PyTorch's suffix."""
    pair = Pair(first, second)
    assert parse(str(pair)) == parse(f"{pair}OVERLAP_F_B") == pair


@pytest.mark.parametrize("token", ["", "F", "2F", "F5", "2X5", "2f5", "-1F0", "2F5 3B1", "(0F1)", "(0F1;)", "1.0F2"])
def test_what_is_no_token_is_refused(token):
    """The error repeats what was found and says what is expected."""
    with pytest.raises(ProgramError, match="expected STAGE KIND MICROBATCH"):
        parse(token)
