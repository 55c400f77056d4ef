// Package parallel lets more tests of a package run side by side than there are processors.
package parallel

import "flag"

// Tests sets the flag -test.parallel to n, unless the command line does. A package whose tests
// mostly wait, for a child, a clock or an upstream that hangs, calls it in TestMain.
func Tests(n string) error {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", n)
}
