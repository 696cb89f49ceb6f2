"""The versions of a model that can be requested: `all`, `latest`, `latest 3` (the three highest), or version numbers, `1 4`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from manifold.runtime.errors import shown

FORMS = ("all", "latest", "latest N", "N M ...")


@dataclass(frozen=True)
class Policy:
    """A choice among the versions of a model."""

    latest: int | None = None  # number of the highest versions; None: all of them
    specific: tuple[int, ...] = ()

    def choose(self, versions: Sequence[int]) -> list[int]:
        """Return the chosen versions, ascending."""
        if self.specific:
            return sorted(set(versions) & set(self.specific))
        return sorted(versions)[-self.latest :] if self.latest else sorted(versions)


def parse(text: str) -> Policy:
    """Return the policy of a text. Raise ValueError that lists the valid forms."""
    if text.strip() == "all":
        return Policy()
    if match := re.fullmatch(r"\s*latest(?:\s+([1-9]\d{0,8}))?\s*", text):
        return Policy(latest=int(match[1] or 1))
    if re.fullmatch(r"\s*\d{1,9}([\s,]+\d{1,9})*\s*", text):
        return Policy(specific=tuple(int(number) for number in re.findall(r"\d+", text)))
    raise ValueError(f"{shown(text)} names no versions; use one of: {', '.join(FORMS)}")
