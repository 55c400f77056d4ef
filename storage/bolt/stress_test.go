package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/assay-proxy/assay/storage"
	"github.com/assay-proxy/assay/storage/bolt"
	"github.com/assay-proxy/assay/storage/storagetest"
)

// stressTime is enough for several verifications, compactions and backups.
const stressTime = 300 * time.Millisecond

// stressSizes are sizes of contents: in meta.db, one chunk, several segments.
var stressSizes = []int{100, 20_000, 40_000, 600_000, 5 << 20}

// stressContents are contents that objects share, by the text of their Hash.
func stressContents() map[string][]byte {
	all := map[string][]byte{}
	for i := range 10 {
		all[strconv.Itoa(i)] = storagetest.Content(uint64(i), stressSizes[i%len(stressSizes)])
	}
	return all
}

// stress changes objects of its own in random ways, and checks after each change that the store has
// what it has acknowledged. It returns the Hash of the object of each key.
func stress(ctx context.Context, db *bolt.DB, name string, contents map[string][]byte) (map[string]string, error) {
	random := rand.New(rand.NewPCG(uint64(len(name)), uint64(name[0])))
	have := map[string]string{}
	for step := 0; ctx.Err() == nil; step++ {
		key, other := fmt.Sprint(name, "/", random.IntN(6)), fmt.Sprint(name, "/", random.IntN(6))
		hash := strconv.Itoa(random.IntN(len(contents)))
		if random.IntN(8) > 0 {
			hash = strconv.Itoa(random.IntN(len(contents))/5*5 + random.IntN(4)) // rarely the largest
		}
		info := storage.Info{Key: key, Size: int64(len(contents[hash])), Hash: hash}
		var err, want error
		bg := context.Background() // ctx ends the test, and no change
		switch random.IntN(6) {
		case 0, 1:
			create := db.Create
			if step%2 == 0 {
				create = func(ctx context.Context, info storage.Info, r io.Reader) error { return draftOf(ctx, db, info, r) }
			}
			if err = create(bg, info, bytes.NewReader(contents[hash])); have[key] != "" {
				want = fs.ErrExist
			} else {
				have[key] = hash
			}
		case 2:
			err = db.Replace(bg, info, bytes.NewReader(contents[hash]))
			have[key] = hash
		case 3:
			if err = db.Delete(bg, key); have[key] == "" {
				want = fs.ErrNotExist
			}
			delete(have, key)
		case 4:
			err = db.Move(bg, key, other, "proof")
			switch {
			case have[key] == "":
				want = fs.ErrNotExist
			case have[other] != "":
				want = fs.ErrExist
			default:
				have[other] = have[key]
				delete(have, key)
			}
		case 5:
			half := io.LimitReader(bytes.NewReader(contents[hash]), info.Size/2)
			err, want = db.Replace(bg, info, half), io.ErrUnexpectedEOF
		}
		if !errors.Is(err, want) {
			return have, fmt.Errorf("step %d of %s: %w, want %v", step, key, err, want)
		}
		for _, k := range []string{key, other} {
			if err := expectStress(db, k, have[k], contents); err != nil {
				return have, fmt.Errorf("after step %d: %w", step, err)
			}
		}
	}
	return have, nil
}

// expectStress checks that the store has the content with this Hash, nothing if it is "".
func expectStress(db *bolt.DB, key, hash string, contents map[string][]byte) error {
	o, err := db.Open(context.Background(), key)
	if hash == "" {
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %v, want ErrNotExist", key, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer o.Close()
	got, err := io.ReadAll(o)
	if err != nil || o.Info().Hash != hash || !bytes.Equal(got, contents[hash]) {
		return fmt.Errorf("%s: content %s of %d bytes, %v, want %s", key, o.Info().Hash, len(got), err, hash)
	}
	return nil
}

// While objects are created, replaced, deleted and moved, the store is verified with repair, compacted
// and backed up. Nothing that was acknowledged is missing or different, there or in a backup, no damage
// is found, and no blob is left.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := openDB(t, dir)
	contents := stressContents()
	ctx, stop := context.WithTimeout(t.Context(), stressTime)
	defer stop()
	var all sync.WaitGroup
	states := make([]map[string]string, 4)
	for i := range states {
		all.Go(func() {
			var err error
			if states[i], err = stress(ctx, db, fmt.Sprintf("%c", 'a'+i), contents); err != nil {
				t.Error(err)
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			v, err := db.Verify(context.Background(), storage.VerifyOptions{Repair: true, Damage: func(d storage.Damage) { t.Errorf("found %+v", d) }})
			if err != nil {
				t.Error(v, err)
			}
		}
	})
	all.Go(func() {
		for ctx.Err() == nil {
			if _, err := db.Compact(context.Background()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
				t.Error(err)
			}
		}
	})
	all.Go(func() {
		for ctx.Err() == nil {
			copied := t.TempDir()
			if err := backUp(context.Background(), db, copied); err != nil {
				t.Error(err)
				return
			}
			backup, err := bolt.Open(copied, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if _, found := verify(t, backup, false); found != nil {
				t.Errorf("in a backup: %v", found)
			}
			for info, err := range backup.List(context.Background(), "") {
				if err == nil {
					err = expectStress(backup, info.Key, info.Hash, contents)
				}
				if err != nil {
					t.Error(err)
				}
			}
			waitNoOrphans(t, backup)
			backup.Close()
		}
	})
	all.Wait()
	waitNoOrphans(t, db)
	db.Close()
	db = openDB(t, dir)
	if _, found := verify(t, db, false); found != nil {
		t.Errorf("at the end: %v", found)
	}
	for _, have := range states {
		for key, hash := range have {
			if err := expectStress(db, key, hash, contents); err != nil {
				t.Error(err)
			}
			if err := db.Delete(t.Context(), key); err != nil {
				t.Error(err)
			}
		}
	}
	waitNoOrphans(t, db)
	if _, found := verify(t, db, false); found != nil {
		t.Errorf("when everything is deleted: %v", found)
	}
}
