package config

import "reflect"

// Difference returns the names of the settings in which c differs from next: those that can change
// without a restart, and those that cannot.
func (c Config) Difference(next Config) (changed, restart []string) {
	old, new := reflect.ValueOf(c), reflect.ValueOf(next)
	for _, s := range Settings() {
		if old.FieldByIndex(s.field.Index).Equal(new.FieldByIndex(s.field.Index)) {
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
			reflect.ValueOf(&c).Elem().FieldByIndex(s.field.Index).Set(reflect.ValueOf(next).FieldByIndex(s.field.Index))
		}
	}
	return c
}
