package vcs

import "strings"

// maxDetail is the length of a text of a program that is passed on.
const maxDetail = 300

// redactor removes from texts what clients and the log must not see.
type redactor struct {
	dir, proxy string   // of this program
	secrets    []string // of the credential
}

// clean returns text in one line, without our directories, the address of the git proxy and
// secrets.
func (r *redactor) clean(text string) string {
	text = strings.ReplaceAll(text, r.dir, "$DIR")
	text = strings.ReplaceAll(text, r.proxy, "$PROXY")
	for _, secret := range r.secrets {
		text = strings.ReplaceAll(text, secret, "xxxxx")
	}
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") + "…"
	}
	return text
}
