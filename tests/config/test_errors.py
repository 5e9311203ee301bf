"""A message is one line for a terminal, whatever a file has put into it."""

import pickle

import pytest

from sm_search.config.errors import MAX_MESSAGE, DataError


def test_line_breaks_and_terminal_codes_of_a_file_are_shown_and_not_sent() -> None:
    hostile = "a.mdf: /tracer/name: is 'x\n\x1b[2Jgone\x00 ü'"
    assert str(DataError(hostile)) == "a.mdf: /tracer/name: is 'x \\x1b[2Jgone\\x00 ü'"
    assert str(pickle.loads(pickle.dumps(DataError(hostile)))) == str(DataError(hostile))


def test_a_long_message_is_cut() -> None:
    assert str(DataError("x" * 10**6)) == "x" * MAX_MESSAGE + "…"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/x: refused", "http://***@host:5000/x: refused"),
        ("https://me:se@cret@host", "https://***@host"),
        ("https://me:se/cret@host/a", "https://***@host/a"),
        ("'s3://KEY:secret@bucket/data' and http://me:secret@b", "'s3://***@bucket/data' and http://***@b"),
        ("http://127.0.0.1:5000: models:/m@champion", "http://127.0.0.1:5000: models:/m@champion"),
        ("s3://bucket/a@b and me@host", "s3://bucket/a@b and me@host"),
    ],
)
def test_no_message_shows_a_password(text: str, shown: str) -> None:
    assert str(DataError(text)) == shown
