"""`python -m sm_search`."""

from sm_search.cli.main import main

raise SystemExit(main())
