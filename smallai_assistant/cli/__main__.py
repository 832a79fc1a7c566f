"""`python -m smallai_assistant.cli` is `smallai`."""

from smallai_assistant.cli import main

raise SystemExit(main())
