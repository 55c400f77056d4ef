package daemon

import "math"

// noLimit is the number of descriptors where none is known.
const noLimit = math.MaxInt64 / 2
