"""What the elements of an array are: the names that annotations give to NumPy's types."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
"""Numbers of entities, relations and tokens."""
Longs = npt.NDArray[np.int64]
"""Keys, offsets, places and counts."""
Floats = npt.NDArray[np.float64]
"""What is added up and reported."""
Singles = npt.NDArray[np.float32]
"""What models give."""
Bools = npt.NDArray[np.bool_]
"""Which elements are meant."""
