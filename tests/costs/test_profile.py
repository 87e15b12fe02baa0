"""Measured costs replace modelled ones, and a bad file says what is wrong with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipesim.costs.profile import profile_costs, read_profile
from pipesim.costs.unit import unit_costs
from pipesim.errors import ConfigError

BASE = unit_costs(stages=3, ranks=3)


@pytest.fixture
def write(tmp_path):
    def writer(text, encoding="utf-8"):
        path = tmp_path / "profile.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return writer


def test_rows_per_stage_replace_times_and_sizes_in_si_units(write):
    path = write(
        "# measured on one A100\n"
        "stage, forward_ms, input_grad_ms, weight_grad_us, activation_MiB, weights_GB\n"
        "1,2,4,3000,2,1\n0,1,2,1500,1,1\n2,3,6,4500,3,2\n"
    )
    costs = profile_costs(path, BASE)
    assert costs.times.forward.tolist() == [0.001, 0.002, 0.003]
    assert costs.times.weight_grad == pytest.approx([0.0015, 0.003, 0.0045], rel=1e-15)
    assert costs.sizes.activations.tolist() == [2**20, 2 * 2**20, 3 * 2**20]
    assert costs.sizes.weights.tolist() == [1e9, 1e9, 2e9]


def test_what_the_file_does_not_say_stays(write):
    costs = profile_costs(write("stage,forward_s,backward_s\n0,1,3\n1,1,3\n2,1,3\n"), BASE)
    assert costs.sizes is not BASE.sizes
    assert costs.sizes.activations.tolist() == BASE.sizes.activations.tolist()
    assert costs.hops is BASE.hops


def test_a_whole_backward_is_split_in_halves(write):
    costs = profile_costs(write("stage,forward_s,backward_s\n0,1,3\n1,1,4\n2,1,5\n"), BASE)
    assert costs.times.input_grad.tolist() == [1.5, 2.0, 2.5]
    assert costs.times.weight_grad.tolist() == [1.5, 2.0, 2.5]


def test_rows_per_layer_are_added_up_into_stages_with_the_ends_where_they_belong(write):
    path = write(
        "layer,forward_s,backward_s,message_bytes\n"
        "embedding,10,0,0\n0,1,2,7\n1,1,2,7\n2,1,2,7\n3,1,2,7\nhead,100,200,0\n"
    )
    costs = profile_costs(path, BASE, layers_per_stage=(1, 2, 1))
    assert costs.times.forward.tolist() == [11, 2, 101]
    assert costs.times.input_grad.tolist() == [1, 2, 101]
    assert costs.sizes.message.tolist() == [7, 7, 7]


def test_a_collective_inside_takes_no_longer_than_the_measured_whole(write):
    costs = profile_costs(write("stage,forward_s,backward_s\n0,1,3\n1,1,3\n2,1,3\n"), BASE)
    assert (costs.times.forward_collective <= costs.times.forward).all()


COLLECTIVE = replace(
    BASE,
    times=replace(
        BASE.times,
        forward_collective=np.full(3, 0.5),
        input_grad_collective=np.full(3, 0.25),
        overlap=np.full(3, 0.17),
        overlap_collective=np.full(3, 0.2),
    ),
)
"""Stages whose modelled times hold communication, some of it beside the weight gradient's products."""


def test_modelled_communication_is_added_to_computing_alone(write):
    """What was measured without peers stays; collectives and what of them is hidden stay as modelled."""
    text = "stage,forward_compute_s,input_grad_compute_s,weight_grad_compute_s\n0,1,2,3\n1,1,2,0.1\n2,1,2,0\n"
    times = profile_costs(write(text), COLLECTIVE).times
    assert times.forward.tolist() == [1.5, 1.5, 1.5]
    assert times.input_grad.tolist() == [2.25, 2.25, 2.25]
    assert times.weight_grad.tolist() == [3, 0.1, 0]
    assert times.forward_collective.tolist() == [0.5, 0.5, 0.5]
    assert times.overlap_collective.tolist() == [0.2, 0.1, 0]
    assert times.overlap == pytest.approx([0.17, 0.085, 0], rel=1e-15)


def test_a_backward_of_computing_alone_is_split_in_halves_before_communication_is_added(write):
    """2 s of computing are 1 s in each half."""
    text = "stage,forward_compute_s,backward_compute_s,recompute_compute_ms\n0,1,2,3\n1,1,2,3\n2,1,2,3\n"
    times = profile_costs(write(text), COLLECTIVE).times
    assert (times.input_grad.tolist(), times.weight_grad.tolist()) == ([1.25] * 3, [1.0] * 3)
    assert times.recompute.tolist() == [0.003] * 3


def test_what_exists_for_one_layer_at_a_time_is_not_added_up(write):
    """Recomputation brings back one layer after the other; what is kept adds up."""
    text = "layer,forward_s,backward_s,recomputed_bytes,activation_bytes\n0,1,2,5,1\n1,1,2,7,1\n2,1,2,6,1\n"
    sizes = profile_costs(write(text), unit_costs(stages=2, ranks=2), layers_per_stage=(2, 1)).sizes
    assert sizes.recomputed.tolist() == [7, 6]
    assert sizes.activations.tolist() == [2, 1]


BAD = {
    "": "is empty",
    "# only a comment\n": "is empty",
    "stage,forward_s,backward_s\n": "no rows",
    "stage,forward_s\n0,1\n": "backward is missing",
    "stage,backward_s\n0,1\n": "column forward is missing",
    "stage,forward_s,input_grad_s\n0,1,1\n": "backward is missing",
    "stage,forward_s,backward_s,input_grad_s\n0,1,1,1\n": "backward and its halves",
    "stage,forward_s,forward_ms,backward_s\n0,1,1,1\n": "forward twice",
    "stage,forward_s,forward_compute_s,backward_s\n0,1,1,1\n": "forward twice",
    "stage,forward_s,backward_compute_s,input_grad_s\n0,1,1,1\n": "backward and its halves",
    "stage,forward_s,optimizer_compute_s,backward_s\n0,1,1,1\n": "unknown column",
    "forward_s,backward_s\n1,1\n": "one of the columns stage and layer",
    "stage,layer,forward_s,backward_s\n0,0,1,1\n": "one of the columns stage and layer",
    "stage,forwards_s,backward_s\n0,1,1\n": "did you mean forward_s",
    "stage,forward,backward_s\n0,1,1\n": "unknown column",
    "stage,forward_s,backward_s\n0,1\n": "line 2 is cut short",
    "stage,forward_s,backward_s\n0,1,\n": "line 2, column backward_s",
    "stage,forward_s,backward_s\n0,1,-2\n": "line 2, column backward_s",
    "stage,forward_s,backward_s\n0,nan,2\n": "line 2, column forward_s",
    "stage,forward_s,backward_s\n0,fast,2\n": "'fast'",
    'stage,forward_s,backward_s\n0,"1,2\n': "is not CSV",
}


@pytest.mark.parametrize(("text", "message"), list(BAD.items()))
def test_a_bad_file_says_what_is_wrong(write, text, message):
    with pytest.raises(ConfigError) as error:
        read_profile(write(text))
    assert message in str(error.value)
    assert "profile.csv" in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,1,1\n1,1,1\n", "lacks stage; found 2"),
        ("0,1,1\n1,1,1\n1,1,1\n2,1,1\n", "repeats stage; found 1"),
        ("0,1,1\n1,1,1\n2,1,1\n3,1,1\n", "has unexpected stage; found 3"),
    ],
)
def test_every_stage_is_there_once(write, rows, message):
    with pytest.raises(ConfigError) as error:
        profile_costs(write("stage,forward_s,backward_s\n" + rows), BASE)
    assert message in str(error.value)


def test_layers_need_stages_of_whole_layers(write):
    with pytest.raises(ConfigError, match=r"stages of this schedule are parts of layers.* stages 0 to 2"):
        profile_costs(write("layer,forward_s,backward_s\n0,1,1\n"), BASE)


def test_a_file_that_is_not_utf8_is_refused_with_the_byte(write):
    with pytest.raises(ConfigError, match="0xe9"):
        read_profile(write("stage,forward_s,backward_s\n# mesuré\n0,1,1\n", encoding="latin-1"))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_profile(tmp_path / "nowhere.csv")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_profile(tmp_path)


def test_a_byte_order_mark_is_ignored(write):
    assert read_profile(write("\ufeffstage,forward_s,backward_s\n0,1,1\n")).keys == ("0",)
