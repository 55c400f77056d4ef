package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxValue is the length of the longest value in a file, in bytes.
const maxValue = 64 << 10

// fileSource returns the source of a value from a file, up to the name of the file.
func fileSource(s Setting) string { return "environment " + s.FileEnv() + ", file " }

// fromFile reports whether a source is a file with the value of a setting.
func fromFile(s Setting, source string) bool {
	return s.Secret && strings.HasPrefix(source, fileSource(s))
}

// readValue returns the value of a setting that is in a file, as Docker, Kubernetes and systemd pass
// secrets to programs: one line. It refuses a content without a URL, which needs no file: if that is
// a password alone, later errors would quote it. No error contains a part of the value.
func readValue(name string) (string, error) {
	if err := CheckMode(name, OthersAny); err != nil {
		return "", err
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxValue+1))
	if err != nil {
		return "", err
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case strings.TrimSpace(value) == "":
		return "", errors.New("the file is empty; write the value of the setting into it")
	case len(data) > maxValue:
		return "", fmt.Errorf("the file has more than %d bytes; it must have the value of the setting and nothing else", maxValue)
	case strings.ContainsAny(value, "\r\n\x00"):
		return "", errors.New("the file has several lines; it must have the value of the setting in one line and nothing else")
	case !strings.Contains(value, "://"):
		return "", errors.New("the file has no URL; write the whole value of the setting into it, for example https://user:password@proxy.example; a value without credentials needs no file")
	}
	return value, nil
}
