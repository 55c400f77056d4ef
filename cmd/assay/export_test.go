package main

// What the tests of the program use of it.
var (
	Run        = run
	NewCommand = newCommand
	StopOn     = stopOn
)
