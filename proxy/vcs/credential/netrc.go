package credential

import "strings"

// netrcLine is one machine of a netrc file.
type netrcLine struct{ machine, login, password string }

// readNetrc reads a netrc file. As for the go command, a default entry ends it: this
// program sends no login to every host.
func readNetrc(name string) ([]netrcLine, error) {
	data, err := readSecret(name, 0o027)
	if err != nil {
		return nil, err
	}
	return parseNetrc(string(data)), nil
}

func parseNetrc(text string) []netrcLine {
	var (
		all     []netrcLine
		current netrcLine
		inMacro bool
	)
	for line := range strings.Lines(text) {
		if inMacro { // a macro ends with an empty line
			inMacro = strings.TrimSpace(line) != ""
			continue
		}
		fields := strings.Fields(line)
		for i := 0; i+1 < len(fields) && !strings.HasPrefix(fields[i], "#"); i += 2 {
			switch fields[i] {
			case "machine":
				current = netrcLine{machine: fields[i+1]}
			case "login":
				current.login = fields[i+1]
			case "password":
				current.password = fields[i+1]
			case "macdef":
				inMacro = true
			}
			if current.machine != "" && current.login != "" && current.password != "" {
				all = append(all, current)
				current = netrcLine{}
			}
		}
		if len(fields) > 0 && fields[0] == "default" {
			break
		}
	}
	return all
}
