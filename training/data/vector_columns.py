"""The columns that are the numbers of a vector, such as an embedding. They share one scale, so that distances are those of the vectors.

Each column has its own mean, and the common scale is the root of their mean variance. Scaling each column by its own deviation would change the
geometry that the model of the vectors was trained for. There is no transform, and a column that is constant in training stays a number: another
value is a deviation in the common scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.training.data.moments import mean_and_deviation

VECTOR = "vector"  # the kind of these columns
SLIGHTEST = 1e-30  # smallest scale of a column; its square fits into float64
CLIP = 10.0  # number of deviations of a column beyond which numbers are compressed, if the column varies more than the others


def column(name: str, numbers: NDArray[np.float64]) -> NumericColumn:
    """Return the column of finite numbers (n,), with its own deviation as scale: `with_one_scale` replaces it."""
    mean, deviation = mean_and_deviation(numbers)
    return NumericColumn(
        name=name,
        mean=mean,
        scale=max(deviation, SLIGHTEST),
        beyond="log",
        minimum=float(numbers.min()),
        maximum=float(numbers.max()),
    )


def with_one_scale(
    kept: list[NumericColumn | CategoricalColumn], names: list[str]
) -> list[NumericColumn | CategoricalColumn]:
    """Return the columns, of which those with these names are numbers of vectors and get their common scale."""
    own = set(names)
    scales = [each.scale for each in kept if isinstance(each, NumericColumn) and each.name in own]
    if not scales:
        return kept
    largest = max(scales)  # its square may not fit into float64
    common = largest * float(np.sqrt(np.mean(np.square(np.asarray(scales) / largest))))
    return [
        each.model_copy(update={"scale": common, "clip": CLIP * max(1.0, each.scale / common)})
        if isinstance(each, NumericColumn) and each.name in own
        else each
        for each in kept
    ]
