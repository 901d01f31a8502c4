"""``python -m nuclr_cli`` is `nuclr`."""

from nuclr_cli.cli.app import main

main()
