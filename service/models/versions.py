"""Versions of a model that may be asked for: `all`, `latest`, `latest 3` (the highest so many), or some by number, `1 4`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

FORMS = ("all", "latest", "latest N", "N M ...")


@dataclass(frozen=True)
class Policy:
    """A choice among the versions that there are."""

    latest: int | None = None  # the highest so many; None is all
    specific: tuple[int, ...] = ()

    def choose(self, versions: Sequence[int]) -> list[int]:
        """Return those of the versions that are served, ascending."""
        if self.specific:
            return sorted(set(versions) & set(self.specific))
        return sorted(versions)[-self.latest :] if self.latest else sorted(versions)


def parse(text: str) -> Policy:
    """The policy. Raises ValueError that says what is valid."""
    if text.strip() == "all":
        return Policy()
    if match := re.fullmatch(r"\s*latest(?:\s+([1-9]\d{0,8}))?\s*", text):
        return Policy(latest=int(match[1] or 1))
    if re.fullmatch(r"\s*\d{1,9}([\s,]+\d{1,9})*\s*", text):
        return Policy(specific=tuple(int(number) for number in re.findall(r"\d+", text)))
    raise ValueError(f"{text!r} is not one of: {', '.join(FORMS)}")
