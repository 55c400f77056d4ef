package proxy

import "github.com/assay-proxy/assay/proxy/content"

// smallResponse is the size up to which the memory of a response is not counted: each
// connection takes as much anyway.
const smallResponse = content.HotSize
