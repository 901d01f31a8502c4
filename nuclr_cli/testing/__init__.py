"""For tests and demos: simulated animals, and the suite that reader plugins pass.

`simulate` makes populations whose cell types and regions differ as real ones do; `ReaderSuite` turns what a
reader promises into tests.
"""

from nuclr_cli.testing.reader_suite import ReaderSuite

__all__ = ["ReaderSuite"]
