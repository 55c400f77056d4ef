package fetch

import (
	"bytes"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"regexp"
	"strings"
	"unicode"
)

// maxDetail is how many bytes of an upstream's message are passed on; the go command shows 648
// bytes of our whole text.
const maxDetail = 200

// Bounds on the message of a refusal.
const (
	maxLines = 3
	maxWords = 300 // bytes
	minWords = 8   // a shorter line says nothing
)

var (
	htmlTitle  = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title>`)
	htmlHidden = regexp.MustCompile(`(?is)<(script|style|head)\b.*?(</(script|style|head)>|$)`)
	htmlTag    = regexp.MustCompile(`(?s)<[^>]*>?`)
	urlQuery   = regexp.MustCompile(`(://[^\s?"'<>]*)\?[^\s"'<>]*`)
	urlUser    = regexp.MustCompile(`://[^\s/?"'<>]*@`)
)

// detailOf returns the message in the body of an unwanted response. It neither cuts nor cleans it:
// half a secret would not be recognized.
func detailOf(resp *http.Response) string {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10)) // a partial message is better than none
	s := string(text)
	var compact bytes.Buffer
	switch {
	case strings.Contains(resp.Header.Get("Content-Type"), "html") || strings.HasPrefix(strings.TrimSpace(s), "<"):
		return textOfHTML(s)
	case strings.HasPrefix(strings.TrimSpace(s), "{") && json.Compact(&compact, text) == nil:
		return compact.String() // the first lines of JSON alone say nothing
	}
	return s
}

// textOfHTML returns the title of a page, or else its text without the tags.
func textOfHTML(s string) string {
	if title := htmlTitle.FindStringSubmatch(s); title != nil && strings.TrimSpace(title[1]) != "" {
		return html.UnescapeString(title[1])
	}
	return html.UnescapeString(htmlTag.ReplaceAllString(htmlHidden.ReplaceAllString(s, " "), " "))
}

// printable returns s as one line of printable text of at most maxDetail bytes.
func printable(s string) string { return clip(onePrintableLine(s), maxDetail) }

// onePrintableLine returns s as one line of printable text, without the credentials and
// queries of URLs in it: a signed URL is a credential.
func onePrintableLine(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = urlUser.ReplaceAllString(s, "://")
	s = urlQuery.ReplaceAllString(s, "$1")
	return strings.Join(strings.Fields(s), " ")
}

// clip returns s cut to at most limit bytes, between runes.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	n := limit - len("...")
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n] + "..."
}
