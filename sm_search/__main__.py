"""`python -m sm_search`."""

from sm_search.cli.main import main

status = main()
# Of an interrupt that falls into code run from a text, as libraries do, Python remembers that it was not answered, and
# under `-m` ends by that signal instead of our status. The next text makes it forget.
exec("")
raise SystemExit(status)
