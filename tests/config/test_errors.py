"""A message is one line for a terminal, whatever a file has put into it."""

import pickle

from sm_search.config.errors import MAX_MESSAGE, DataError


def test_line_breaks_and_terminal_codes_of_a_file_are_shown_and_not_sent() -> None:
    hostile = "a.mdf: /tracer/name: is 'x\n\x1b[2Jgone\x00 ü'"
    assert str(DataError(hostile)) == "a.mdf: /tracer/name: is 'x \\x1b[2Jgone\\x00 ü'"
    assert str(pickle.loads(pickle.dumps(DataError(hostile)))) == str(DataError(hostile))


def test_a_long_message_is_cut() -> None:
    assert str(DataError("x" * 10**6)) == "x" * MAX_MESSAGE + "…"
