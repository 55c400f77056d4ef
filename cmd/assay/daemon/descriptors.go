package daemon

import "math"

// noLimit is the limit on descriptors where none is known.
const noLimit = math.MaxInt64 / 2
