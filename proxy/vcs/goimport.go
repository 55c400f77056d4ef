package vcs

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// goImport is a <meta name="go-import" content="prefix vcs repo [subdir]"> tag
// (go.dev/ref/mod#vcs-find).
type goImport struct {
	prefix, system, repo, subdir string
}

// parseGoImports returns the go-import tags in the head of a page. Like the go command it
// reads up to the body, and ignores errors after a tag.
func parseGoImports(r io.Reader) ([]goImport, error) {
	d := xml.NewDecoder(r)
	d.CharsetReader = func(charset string, input io.Reader) (io.Reader, error) {
		switch strings.ToLower(charset) {
		case "utf-8", "ascii":
			return input, nil
		}
		return nil, fmt.Errorf("unsupported charset %.40q", charset)
	}
	d.Strict = false
	var imports []goImport
	for {
		token, err := d.RawToken()
		if err != nil {
			if errors.Is(err, io.EOF) || len(imports) > 0 {
				return imports, nil
			}
			return nil, err
		}
		switch e := token.(type) {
		case xml.StartElement:
			if strings.EqualFold(e.Name.Local, "body") {
				return imports, nil
			}
			if tag, ok := goImportOf(e); ok {
				imports = append(imports, tag)
			}
		case xml.EndElement:
			if strings.EqualFold(e.Name.Local, "head") {
				return imports, nil
			}
		}
	}
}

func goImportOf(e xml.StartElement) (goImport, bool) {
	if !strings.EqualFold(e.Name.Local, "meta") || attribute(e, "name") != "go-import" {
		return goImport{}, false
	}
	fields := strings.Fields(attribute(e, "content"))
	if len(fields) != 3 && len(fields) != 4 {
		return goImport{}, false
	}
	tag := goImport{prefix: fields[0], system: fields[1], repo: fields[2]}
	if len(fields) == 4 {
		tag.subdir = fields[3]
	}
	return tag, true
}

func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if strings.EqualFold(a.Name.Local, name) {
			return a.Value
		}
	}
	return ""
}

// matchGoImport returns the only tag whose prefix covers the path. Tags that name a module
// proxy do not count.
func matchGoImport(imports []goImport, path string) (goImport, error) {
	var match []goImport
	for _, tag := range imports {
		if tag.system != "mod" && (path == tag.prefix || strings.HasPrefix(path, tag.prefix+"/")) {
			match = append(match, tag)
		}
	}
	switch len(match) {
	case 0:
		return goImport{}, errors.New("no go-import tag matches this path")
	case 1:
		return match[0], nil
	}
	return goImport{}, errors.New("several go-import tags match this path")
}
