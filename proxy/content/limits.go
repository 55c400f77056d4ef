package content

import xmodzip "golang.org/x/mod/zip"

const (
	// The limits of the go command (cmd/go/internal/modfetch/codehost,
	// x/mod/zip). It has none for info; one is a hundred times shorter.
	zipLimit  = xmodzip.MaxZipFile
	modLimit  = xmodzip.MaxGoMod
	infoLimit = 1 << 20
)
