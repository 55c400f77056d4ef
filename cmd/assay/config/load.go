package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"
)

// Load returns the effective configuration and the source of each setting. It reads the environment
// with getenv.
func Load(flags *pflag.FlagSet, getenv func(string) string) (Config, Sources, error) {
	file, err := readFile(flags, getenv)
	if err != nil {
		return Config{}, nil, err
	}
	return load(flags, getenv, file)
}

func load(flags *pflag.FlagSet, getenv func(string) string, file settingsFile) (c Config, from Sources, err error) {
	from = Sources{}
	for _, s := range Settings() {
		text, source, err := choose(s, flags, getenv, file)
		if err == nil {
			err = set(reflect.ValueOf(&c).Elem().FieldByIndex(s.field.Index), text)
		}
		if err != nil {
			return Config{}, nil, fmt.Errorf("%s (from %s): %w", s.Name, source, err)
		}
		from[s.Name] = source
	}
	c.Prefix = strings.TrimSuffix(c.Prefix, "/") // /go/ is /go, and / is none
	if err := c.check(); err != nil {
		return Config{}, nil, err
	}
	return c, from, nil
}

// Lookup returns the text of one setting and checks nothing else. An error of the file counts only
// if neither flag nor environment have the setting.
func Lookup(name string, flags *pflag.FlagSet, getenv func(string) string) (text string, err error) {
	all := Settings()
	s := all[slices.IndexFunc(all, func(s Setting) bool { return s.Name == name })]
	file, err := readFile(flags, getenv)
	if err != nil && !flags.Changed(name) && getenv(s.Env) == "" {
		return "", err
	}
	text, _, err = choose(s, flags, getenv, file)
	return text, err
}

// choose returns the text of a setting and its source.
func choose(s Setting, flags *pflag.FlagSet, getenv func(string) string, file settingsFile) (text, source string, err error) {
	valueFile := ""
	if s.Secret {
		valueFile = getenv(s.FileEnv())
	}
	if valueFile != "" && getenv(s.Env) != "" {
		return "", "the environment", fmt.Errorf("%s and %s are both set; remove one of them", s.Env, s.FileEnv())
	}
	if f := flags.Lookup(s.Name); f != nil && f.Changed {
		return f.Value.String(), "flag --" + s.Name, nil
	}
	if valueFile != "" {
		text, err := readValue(valueFile)
		return text, fileSource(s) + valueFile, err
	}
	if text := getenv(s.Env); text != "" {
		return text, "environment " + s.Env, nil
	}
	if text, ok := file.values[s.TOML()]; ok {
		return text, "file " + file.name, nil
	}
	if text, names := goSetting(s, getenv); text != "" {
		return text, "environment " + names, nil
	}
	return s.Default, "default", nil
}

// goSetting returns the value from the go command's own variables. All three variables with
// patterns count: each of them names modules that must not be sent to others. The direct at the end
// of a GOPROXY is meant for the client, which still has it.
func goSetting(s Setting, getenv func(string) string) (text, names string) {
	var values, used []string
	for _, name := range s.GoEnv {
		if value := getenv(name); value != "" {
			values, used = append(values, value), append(used, name)
		}
	}
	text = strings.Join(values, ",")
	if s.Name == "upstream" {
		text = withoutDirect(text)
	}
	return text, strings.Join(used, ", ")
}

// withoutDirect cuts a GOPROXY list at direct.
func withoutDirect(list string) string {
	rest := list
	for rest != "" {
		entry, after := rest, ""
		if i := strings.IndexAny(rest, ",|"); i >= 0 {
			entry, after = rest[:i], rest[i+1:]
		}
		if strings.TrimSpace(entry) == "direct" {
			return strings.TrimRight(list[:len(list)-len(rest)], ",| ")
		}
		rest = after
	}
	return list
}

// settingsFile is the content of a file, as text, by TOML key.
type settingsFile struct {
	name   string
	values map[string]string
}

// readFile returns the content of the file that the flag or the environment names, if there is one.
// An unknown key is an error.
func readFile(flags *pflag.FlagSet, getenv func(string) string) (settingsFile, error) {
	name := getenv("ASSAY_CONFIG")
	if f := flags.Lookup("config"); f != nil && f.Changed {
		name = f.Value.String()
	}
	if name == "" {
		return settingsFile{}, nil
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return settingsFile{}, fmt.Errorf("configuration file %s does not exist", name)
	}
	if err != nil {
		return settingsFile{}, fmt.Errorf("configuration file: %w", err)
	}
	values, err := parseFile(data)
	if err != nil {
		return settingsFile{}, fmt.Errorf("configuration file %s: %w", name, err)
	}
	return settingsFile{name, values}, nil
}

// parseFile returns the settings in a file as text, by TOML key.
func parseFile(data []byte) (map[string]string, error) {
	var raw map[string]any
	if err := toml.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	known := map[string]Setting{}
	for _, s := range Settings() {
		known[s.TOML()] = s
	}
	values := map[string]string{}
	for key, value := range raw {
		s, ok := known[key]
		if !ok {
			return nil, fmt.Errorf("unknown setting %q; assay config prints all settings", key)
		}
		text, err := tomlText(s, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		values[key] = text
	}
	return values, nil
}

// tomlText returns a value of the file as the text of the setting.
func tomlText(s Setting, value any) (string, error) {
	switch value := value.(type) {
	case string:
		if s.field.Type.Kind() == reflect.String || s.field.Type == reflect.TypeFor[time.Duration]() || s.field.Type == reflect.TypeFor[Size]() {
			return value, nil
		}
	case bool:
		if s.field.Type.Kind() == reflect.Bool {
			return strconv.FormatBool(value), nil
		}
	case int64:
		if s.field.Type.Kind() == reflect.Int {
			return strconv.FormatInt(value, 10), nil
		}
	}
	return "", fmt.Errorf("want a value like %s, not a %T", tomlValue(s, s.Default), value)
}

// set sets a field to the value of text.
func set(field reflect.Value, text string) error {
	switch field.Interface().(type) {
	case string:
		field.SetString(text)
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		field.SetBool(b)
	case int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
		field.SetInt(int64(n))
	case Size:
		size, err := ParseSize(text)
		if err != nil {
			return err
		}
		field.SetInt(int64(size))
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration like 30s or 5m", text)
		}
		field.SetInt(int64(d))
	}
	return nil
}
