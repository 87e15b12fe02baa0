"""Reading YAML: what is refused, and where it says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipesim.config.reading import MAX_FILE_BYTES, describe, parse_yaml, plain, read_file
from pipesim.errors import ConfigError, Problem


def refused(text: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1E-6", 1e-6),
        ("+.5", 0.5),
        ("-12", -12),
        ("010", 10),
        ("0x10", 16),
        ("0o17", 15),
        ("1.", 1.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("yes", "yes"),
        ("NO", "NO"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        (".", "."),
        ("'8'", "8"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    read = parse_yaml(text)
    assert read == value
    assert type(read) is type(value)


def test_not_a_number_is_read_as_such_for_validation_to_refuse() -> None:
    read = parse_yaml(".nan")
    assert read != read


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1", "the key 'a' is given twice (first on line 1)"),
        ("c: {a: 1, a: 2}", "line 1, column 11", "the key 'a' is given twice"),
        ("a: [1,", "line 1, column 7", "expected the node content"),
        ("\ta: 1", "line 1, column 1", "cannot start any token"),
        ("a: 1\n b: 2", "line 2, column 3", "mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "line 2, column 1", "single document"),
        ("a: *b", "line 1, column 4", "undefined alias"),
        ("a: &a [*a]", "line 1, column 4", "contains itself"),
        ("? [a]\n: b", "line 1, column 3", "a key must be plain text"),
        ("a: !!python/object/apply:os.getcwd []", "line 1, column 4", "could not determine a constructor"),
        ("a: " + "9" * 5000, "line 1, column 4", "a number of 5000 digits"),
        ("<<: 3", "line 1, column 5", "for merging"),
    ],
)
def test_a_syntax_error_has_line_and_column(text: str, where: str, says: str) -> None:
    problem = refused(text)
    assert problem.path == where
    assert says in problem.message


@pytest.mark.parametrize("text", ["a: \x00", "a: '\ud800'", "a: \x07"])
def test_control_characters_are_named(text: str) -> None:
    assert refused(text).message.startswith("not text: character #x")


@pytest.mark.parametrize("text", ["[" * 60 + "]" * 60, "[" * 20_000, "{a: " * 5_000])
def test_absurd_nesting_is_refused(text: str) -> None:
    assert "nested" in refused(text).message


def test_aliases_that_explode_are_refused_at_once() -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "values; a config has fewer" in refused("\n".join(lines)).message


def test_anchors_and_merge_keys_work() -> None:
    text = "base: &base {x: 1, y: 2}\nother: {<<: *base, y: 3}"
    assert parse_yaml(text)["other"] == {"x": 1, "y": 3}


def message_of(path: Path) -> Problem:
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    assert caught.value.source == str(path)
    (problem,) = caught.value.problems
    return problem


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "gpt3.yaml").write_text("a: 1")
    assert message_of(tmp_path / "gpt33.yaml") == Problem("", "no such file", nearest=str(tmp_path / "gpt3.yaml"))
    assert message_of(tmp_path / "nowhere" / "x.yaml") == Problem("", "no such file")


def test_a_link_to_nowhere_is_not_its_own_nearest_match(tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to("nowhere")
    assert message_of(tmp_path / "link.yaml") == Problem("", "no such file")


def test_a_directory_names_a_config_in_it(tmp_path: Path) -> None:
    (tmp_path / "gpt3.yaml").write_text("a: 1")
    assert message_of(tmp_path) == Problem("", "a directory, not a file", nearest=str(tmp_path / "gpt3.yaml"))


@pytest.mark.parametrize(
    ("content", "message", "found"),
    [
        (b"", "the file is empty", None),
        (b"# only a comment\n", "the file is empty", None),
        (b"- 1\n- 2\n", "not a config", "a list"),
        (b"just words", "not a config", "the single value 'just words'"),
        (b"a: caf\xe9", "the file is not UTF-8 text: byte 0xe9 at offset 6", None),
        (b"a: 1\n" + b"#" * MAX_FILE_BYTES, "the file is larger than 1 MiB; a config is not that large", None),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, content: bytes, message: str, found: str | None) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    problem = message_of(path)
    assert (problem.message, problem.found) == (message, found)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_file(path) == {"a": 1}


def test_a_name_with_a_zero_byte_is_an_error_like_any_other() -> None:
    assert "cannot be read" in message_of(Path("a\0b")).message


def test_a_pipe_can_be_read() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stream:
        stream.write("a: 1\n")
    try:
        assert read_file(Path(f"/dev/fd/{read_end}")) == {"a": 1}
    finally:
        os.close(read_end)


def test_python_data_that_contains_itself_is_refused() -> None:
    loop: dict[str, object] = {}
    loop["a"] = loop
    with pytest.raises(ConfigError, match="nested too deeply"):
        plain(loop)


def test_numpy_scalars_paths_and_tuples_become_plain() -> None:
    np = pytest.importorskip("numpy")
    assert plain({"a": np.int64(3), "b": (1, np.float64(0.5)), "c": Path("x")}) == {"a": 3, "b": [1, 0.5], "c": "x"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "true"),
        (float("-inf"), "-.inf"),
        ("8", "'8'"),
        ({}, "an empty mapping"),
        ({"a": 1, "b": 2}, "a mapping (a, b)"),
        ([1, 2], "a list of 2"),
        ("x" * 100, "'" + "x" * 56 + "..."),
    ],
)
def test_values_are_described_briefly(value: object, text: str) -> None:
    assert describe(value) == text


def test_a_huge_number_is_not_spelled_out() -> None:
    assert describe(10**5000) == "a number of about 5001 digits"
