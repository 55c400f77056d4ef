package config

import "reflect"

// Difference returns the names of the settings in which c differs from next: those that can change
// without a restart, and those that cannot.
func (c Config) Difference(next Config) (changed, restart []string) {
	old, new := reflect.ValueOf(c), reflect.ValueOf(next)
	for _, s := range Settings() {
		if old.Field(s.field).Equal(new.Field(s.field)) {
			continue
		}
		if s.Reload {
			changed = append(changed, s.Name)
		} else {
			restart = append(restart, s.Name)
		}
	}
	return changed, restart
}

// Reloaded returns c with those settings of next that can change without a restart.
func (c Config) Reloaded(next Config) Config {
	for _, s := range Settings() {
		if s.Reload {
			reflect.ValueOf(&c).Elem().Field(s.field).Set(reflect.ValueOf(next).Field(s.field))
		}
	}
	return c
}
