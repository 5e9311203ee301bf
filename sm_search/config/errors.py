"""The exception tree of sm_search.

SmSearchError                 anything that we raise on purpose
├── InputError                the user can mend it: exit status 2, one line
│   ├── SettingsError         a YAML file or a settings value
│   ├── DataError             an MDF file, a manifest, a dataset
│   ├── CheckpointError       a checkpoint folder or a model URI
│   └── TrackingError         an MLflow run, model or server
└── DivergenceError           a non-finite loss or metric: ends one trial, not the sweep
"""

import re

MAX_MESSAGE = 2000
# Also a password with a slash in it, where a parser of URIs would end the host.
_USER_INFO = re.compile(r"(?<=://)(?:[^/\s'\"]+|[^/:@\s'\"]+:[^\s'\"]*)@")


def without_password(text: str) -> str:
    """`text` with user and password masked in every URI."""
    return _USER_INFO.sub("***@", text)


class SmSearchError(Exception):
    """Base of all errors raised on purpose; the message is one line for the user.

    What a file says of itself may be in there: line breaks and terminal codes are shown, not sent. A password in a URI
    is neither.
    """

    def __str__(self) -> str:
        line = without_password(" ".join(super().__str__().split()))
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[:MAX_MESSAGE])
        return shown if len(line) <= MAX_MESSAGE else f"{shown}…"


class InputError(SmSearchError):
    """The input is wrong; the message names the file, the field, the value and the rule."""


class SettingsError(InputError):
    """A setting breaks a rule."""


class DataError(InputError):
    """An MDF file or a dataset breaks a rule."""


class CheckpointError(InputError):
    """A checkpoint or model URI cannot be used."""


class TrackingError(InputError):
    """A tracking server, run or registered model cannot be reached or does not exist."""


class DivergenceError(SmSearchError):
    """Training or sampling left the finite numbers."""
