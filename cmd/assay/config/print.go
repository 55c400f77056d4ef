package config

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/assay-proxy/assay/proxy/fetch"
)

// Print writes c as a configuration file.
func (c Config) Print(w io.Writer, from Sources) error {
	var b strings.Builder
	for i, s := range Settings() {
		if i > 0 {
			b.WriteByte('\n')
		}
		for line := range strings.Lines(wrap(s.Help, 90)) {
			fmt.Fprintf(&b, "# %s", line)
		}
		value := tomlValue(s, c.text(s))
		switch {
		case fromFile(s, from[s.Name]):
			fmt.Fprintf(&b, "\n# From: %s\n# Its value is not printed. Set %s also where you use this output as a file.\n", from[s.Name], s.FileEnv())
			continue
		case c.redacted(s):
			b.WriteString("\n# Its credentials are omitted here: add them before you use this output as a file.")
		}
		fmt.Fprintf(&b, "\n# From: %s\n%s = %s\n", from[s.Name], s.TOML(), value)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// wrap breaks text into lines of at most width bytes.
func wrap(text string, width int) string {
	var b strings.Builder
	length := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case length == 0:
		case length+1+len(word) > width:
			b.WriteByte('\n')
			length = 0
		default:
			b.WriteByte(' ')
			length++
		}
		b.WriteString(word)
		length += len(word)
	}
	return b.String()
}

// redacted reports whether text omits something from the value of a setting.
func (c Config) redacted(s Setting) bool {
	text, ok := reflect.ValueOf(c).FieldByIndex(s.field.Index).Interface().(string)
	return ok && text != c.text(s)
}

// text returns the value of a setting as text, without credentials.
func (c Config) text(s Setting) string {
	value := reflect.ValueOf(c).FieldByIndex(s.field.Index).Interface()
	if d, ok := value.(time.Duration); ok {
		return shortDuration(d)
	}
	text := fmt.Sprint(value)
	if s.Secret {
		return fetch.Redact(text)
	}
	return text
}

// shortDuration is d.String without trailing zeros: 1m, not 1m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// TOMLDefault returns the default in the form of the file.
func (s Setting) TOMLDefault() string { return tomlValue(s, s.Default) }

// tomlValue returns text in the form of the file.
func tomlValue(s Setting, text string) string {
	if s.field.Type.Kind() == reflect.Bool || s.field.Type.Kind() == reflect.Int {
		return text
	}
	line, err := toml.Marshal(map[string]string{"v": text})
	if err != nil { // not for a string
		return strconv.Quote(text)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(line), "v = "))
}
