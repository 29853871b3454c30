"""What a notebook was given is compared with what it declares."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from playbook.errors import SettingsError
from playbook.parameters import Common, injected_names, one_of, read_parameters


@dataclass(frozen=True)
class Parameters(Common):
    target: str = "head"
    dry_run: bool = False
    keep: int = 0
    ratio: float = 0.5


def read(**namespace: object) -> Parameters:
    return read_parameters(Parameters, namespace)


def injected(code: str) -> dict[str, object]:
    return {"In": ["", "database = 'sandbox'", f"# Parameters\n{code}"]}


def test_what_is_not_given_has_its_default() -> None:
    assert read() == Parameters()
    assert read(In=[""], target="+1", unrelated=object()) == Parameters(target="+1")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("target", 1, "target=1 is a whole number, and it must be text. Nothing was changed. "
         "papermill's -p makes numbers of such text: write -r target 1, or an id with its zeros "
         "as they are: -r target 0001."),
        ("target", float("inf"), "target=inf is a number, and it must be text. Nothing was "
         "changed. papermill's -p makes numbers of such text: write -r target ID, or an id with "
         "its zeros as they are: -r target 0001."),
        ("database", True, "database=True is true or false, and it must be text. Nothing was "
         "changed. papermill's -p makes numbers of such text: write -r database True."),
        ("database", None, "database=None is a NoneType, and it must be text. Nothing was "
         "changed. Write -r database TEXT."),
        ("dry_run", "false", "dry_run='false' is text, and it must be true or false. Nothing was "
         "changed. Write -p dry_run True or -p dry_run False."),
        ("dry_run", 0, "dry_run=0 is a whole number, and it must be true or false. Nothing was "
         "changed. Write -p dry_run True or -p dry_run False."),
        ("keep", True, "keep=True is true or false, and it must be a whole number. Nothing was "
         "changed. Write -p keep VALUE, for instance -p keep 0."),
        ("keep", "3", "keep='3' is text, and it must be a whole number. Nothing was changed. "
         "Write -p keep VALUE, for instance -p keep 0."),
        ("keep", 3.0, "keep=3.0 is a number, and it must be a whole number. Nothing was changed. "
         "Write -p keep VALUE, for instance -p keep 0."),
        ("ratio", "1", "ratio='1' is text, and it must be a number. Nothing was changed. "
         "Write -p ratio VALUE, for instance -p ratio 0.5."),
        ("target", ["a"], "target=['a'] is a list, and it must be text. Nothing was changed. "
         "Write -r target TEXT."),
    ],
)  # fmt: skip
def test_value_of_another_type_is_one_sentence_with_what_to_write(
    name: str, value: object, sentence: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**{name: value})

    assert str(caught.value) == sentence


def test_whole_number_serves_where_a_number_is_wanted() -> None:
    assert read(ratio=2).ratio == 2


def test_unknown_name_that_papermill_injected_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingsError) as caught:
        read(**injected("tagret = 'head'"), tagret="head")

    assert str(caught.value) == (
        "This notebook has no parameter 'tagret'. Nothing was changed. Did you mean "
        "-r target ...? Its parameters are: database, alembic_ini, output_dir, target, dry_run, "
        "keep, ratio."
    )


def test_unknown_name_like_no_other_gets_the_list_without_a_guess() -> None:
    with pytest.raises(SettingsError, match=r"changed\. Its parameters are"):
        read(**injected("zzzz = 1"))


def test_names_are_read_from_papermills_cell_alone() -> None:
    cells = ["other = 1", "# Parameters\ntarget = 'head'\nkeep = 2\n", "# Params\nno = 1"]

    assert injected_names(cells) == ["target", "keep"]


def test_choice_outside_the_list_is_refused_with_the_list() -> None:
    one_of("backup", "auto", ("auto", "never"))

    with pytest.raises(SettingsError) as caught:
        one_of("backup", "no", ("auto", "never"))

    assert str(caught.value) == (
        "backup='no' is not known. Nothing was changed. Write -r backup auto or never."
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [("x" * 2001, "has 2001 characters"), ("a\0b", "NUL"), ("\ud800", "surrogate")],
)
def test_text_that_nothing_can_take_is_refused_and_not_repeated(text: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        read(target=text)

    assert text not in str(caught.value)
