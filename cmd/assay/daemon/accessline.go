package daemon

import (
	"log/slog"
	"strconv"
	"time"
)

// lineFormat writes the line of a request as the handler of slog for its format does, in a third of the
// time: it has no groups, no replaced attributes and no source, and knows the kinds of the values.
type lineFormat struct{ json bool }

// append appends the line with attrs, and reports whether it could: it leaves texts that need more than
// a pair of quotes to slog.
func (f lineFormat) append(line []byte, t time.Time, attrs []slog.Attr) ([]byte, bool) {
	if f.json {
		line = append(line, `{"time":"`...)
		line = t.AppendFormat(line, time.RFC3339Nano)
		line = append(line, `","level":"INFO","msg":"request"`...)
	} else {
		line = append(line, "time="...)
		line = appendMilliseconds(line, t)
		line = append(line, " level=INFO msg=request"...)
	}
	for i := range attrs {
		if f.json {
			line = append(append(append(line, `,"`...), attrs[i].Key...), `":`...)
		} else {
			line = append(append(append(line, ' '), attrs[i].Key...), '=')
		}
		ok := false
		if line, ok = f.appendValue(line, attrs[i].Value); !ok {
			return nil, false
		}
	}
	if f.json {
		line = append(line, '}')
	}
	return append(line, '\n'), true
}

func (f lineFormat) appendValue(line []byte, v slog.Value) ([]byte, bool) {
	switch v.Kind() {
	case slog.KindInt64:
		return strconv.AppendInt(line, v.Int64(), 10), true
	case slog.KindFloat64:
		form := byte('g')
		if f.json {
			form = 'f'
		}
		return strconv.AppendFloat(line, v.Float64(), form, -1, 64), true
	case slog.KindBool:
		return strconv.AppendBool(line, v.Bool()), true
	case slog.KindString:
		plain, bare := examine(v.String())
		if bare && !f.json {
			return append(line, v.String()...), true
		}
		return append(append(append(line, '"'), v.String()...), '"'), plain
	}
	return nil, false
}

// examine reports whether text is plain, so that it needs no escapes between quotes, and whether it
// needs no quotes in the format text.
func examine(text string) (plain, bare bool) {
	bare = text != ""
	for i := range len(text) {
		c := text[i]
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false, false
		}
		if c == ' ' || c == '=' {
			bare = false
		}
	}
	return true, bare
}

// appendMilliseconds appends a time with three decimals. time.RFC3339Nano is much faster than other
// layouts, so it uses that with a fourth decimal that is not 0, and removes it.
func appendMilliseconds(line []byte, t time.Time) []byte {
	end := len(line) + len("2006-01-02T15:04:05.000")
	line = t.Truncate(time.Millisecond).Add(time.Millisecond/10).AppendFormat(line, time.RFC3339Nano)
	return append(line[:end], line[end+1:]...)
}
