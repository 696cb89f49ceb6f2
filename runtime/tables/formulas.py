"""Protection of CSV files for spreadsheets from formulas.

A spreadsheet evaluates a cell as a formula if it begins with = + - or @, which may come from an attacker (OWASP, CSV Injection). An apostrophe
is therefore put before such a text, also after a semicolon or tab in it, which some spreadsheets take for a delimiter. Numbers are left as they are.
"""

from __future__ import annotations

import re

_BLANK, _SIGN = "[ \t\r\n\v\f\u00a0]*", "[=+@\uff1d\uff0b\uff0d\uff20-]"  # the signs also in full width
SUSPECT = f"(?:^|[;\t])(?:{_BLANK}{_SIGN}|[\t\r\n])"  # for RE2, which finds few cells quickly
_NUMBER = rf"{_BLANK}[+-]?[\d.,]*\d(?:[eE][+-]?\d+)?{_BLANK}(?:[;\t]|\Z)"
_FORMULA = re.compile(rf"(^|[;\t])(?={_BLANK}{_SIGN}|[\t\r\n])(?!{_NUMBER})")


def no_formula(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula: with an apostrophe before a sign that would begin one."""
    return _FORMULA.sub(r"\1'", text)
