package credential

// ParseNetrc returns machine, login and password of each line.
func ParseNetrc(text string) (all [][3]string) {
	for _, l := range parseNetrc(text) {
		all = append(all, [3]string{l.machine, l.login, l.password})
	}
	return all
}
