package storage

import "fmt"

// Check checks the arguments of Apply.
func (b Batch) Check() error {
	keys, total := map[string]bool{}, 0
	for _, c := range b.Create {
		if err := c.Info.Check(); err != nil {
			return err
		}
		if len(c.Content) > MaxSmall {
			return fmt.Errorf("object %.200q of %d bytes is larger than %d", c.Info.Key, len(c.Content), MaxSmall)
		}
		if keys[c.Info.Key] {
			return fmt.Errorf("object %.200q is in the batch twice", c.Info.Key)
		}
		keys[c.Info.Key] = true
		total += len(c.Content)
	}
	if total > MaxBatch {
		return fmt.Errorf("objects of %d bytes are more than %d", total, MaxBatch)
	}
	if b.Swap == nil {
		return nil
	}
	return CheckState(b.Swap.Name, b.Swap.New)
}

// Same reports whether an object with this Info and the same content equals the one of the batch.
func (c Small) Same(as Info) bool {
	return as.Size == int64(len(c.Content)) && as.Hash == c.Info.Hash && as.Proof == c.Info.Proof
}
