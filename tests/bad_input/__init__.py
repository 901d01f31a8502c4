"""Broken and hostile recordings of every format, generated rule by rule. See `bad_input.frame`."""

import pytest

pytest.register_assert_rewrite("bad_input.frame")
