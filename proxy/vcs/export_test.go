package vcs

import "strings"

var CheckURL = checkURL

func ParseGoImports(page string) (all [][4]string) {
	imports, _ := parseGoImports(strings.NewReader(page))
	for _, i := range imports {
		all = append(all, [4]string{i.prefix, i.system, i.repo, i.subdir})
	}
	return all
}

func ParseNetrc(text string) (all [][3]string) {
	for _, l := range parseNetrc(text) {
		all = append(all, [3]string{l.machine, l.login, l.password})
	}
	return all
}
