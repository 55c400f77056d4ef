package pinlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/assay-proxy/assay/internal/durable"
)

// Create begins a log in c.Bucket, which must not have a log of this name, and returns its verifier key. It
// writes the file c.Bucket.Key with a new key, if there is none; the name is c.Name. A file that is there needs the word
// c.Bucket.KeyUnused, and a bucket with another log the word c.Bucket.OthersEnded, with which Create also lets a log go
// on that is in the bucket beside another one. The error is fs.ErrExist if there is such a log, and sumdb.ErrFrozen
// without a word that is needed, or if there are traces of the log: versions that it pinned, a guard in the store,
// entries in c.Dir.
func Create(ctx context.Context, c Config) (key string, err error) {
	if err := checkNew(ctx, c); err != nil {
		return "", fmt.Errorf("create the log: %w", err)
	}
	if err := createKey(c); err != nil {
		return "", fmt.Errorf("create the log: %w", err)
	}
	l, err := newLog(c)
	if err == nil {
		err = bucketOpener{l}.create(ctx)
		err = errors.Join(err, l.closeFiles())
	}
	if err != nil {
		return "", fmt.Errorf("create the log: %w", err)
	}
	return l.Key(), nil
}

// checkNew returns an error if there was a log with the name of the new one.
func checkNew(ctx context.Context, c Config) error {
	name, old := c.Name, false
	if key, err := readKey(c.Bucket.Key); err == nil {
		name, old = key.name(), true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	} else if moved := movedKeyOf(c.Bucket.Key); exists(moved) {
		return frozen("%s is gone, and %s is the key of a log that assay log move has brought to a bucket: "+
			"name another file for the key of a new log", c.Bucket.Key, moved)
	}
	if err := checkAlone(ctx, c, name); err != nil || name == "" { // the generated name is one that no log had
		return err
	}
	first, err := newBucketDir(c.Bucket.Store, name).batch(ctx, 0)
	if err == nil && first != nil && !c.Bucket.OthersEnded {
		err = fmt.Errorf("the bucket has a log %s: %w", name, fs.ErrExist)
	}
	if err != nil || first != nil {
		return err
	}
	if err := tracesOf(ctx, c, name); err != nil {
		return err
	}
	if old && !c.Bucket.KeyUnused {
		return frozen("%s has a key already, and a second log with the key of another one would contradict what clients have seen: "+
			"bring a log that has this key to the bucket with assay log move, or put back its bucket; name a file that does not exist "+
			"for a new key; or, if no log ever had this key, say so with --key-never-used", c.Bucket.Key)
	}
	return nil
}

// checkAlone returns an error if the bucket has another log than the one called name, which has not ended.
func checkAlone(ctx context.Context, c Config, name string) error {
	if c.Bucket.OthersEnded {
		return nil
	}
	_, other, err := otherLog(ctx, c.Bucket.Store, name, false)
	if err != nil || other == "" {
		return err
	}
	return frozen("the bucket has another log, %s, and two logs would give clients different bytes for one version: use that one, "+
		"with its key as log-key, or give the new one a store with another prefix; if %s has ended, stop all its servers, and say so "+
		"with --other-log-ended", other, other)
}

func createKey(c Config) error {
	_, err := readKey(c.Bucket.Key)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, secret, err := generateKey(c.Name, c.Bucket.Key)
	if err != nil {
		return err
	}
	return durable.Create(c.Bucket.Key, []byte(secret+"\n"), 0o600)
}

// create opens a log that does not exist yet.
func (o bucketOpener) create(ctx context.Context) error {
	if err := o.openKey(ctx); err != nil {
		return err
	}
	first, err := newBucketDir(o.config.Bucket.Store, o.Name()).batch(ctx, 0)
	if err != nil {
		return err
	}
	if first != nil && o.config.Bucket.OthersEnded {
		return o.goOn(ctx)
	}
	if first != nil {
		return fmt.Errorf("the bucket has a log %s: %w", o.Name(), fs.ErrExist)
	}
	if err := o.openFor(ctx, toBegin); err != nil {
		return err
	}
	return o.Refuses()
}

// goOn makes a log that is in the bucket already the one that signs there.
func (o bucketOpener) goOn(ctx context.Context) error {
	there, err := keyInBucket(ctx, o.config.Bucket.Store, o.Name())
	if err == nil && there.public != o.key.public {
		err = frozen("the bucket has a log %s with another key than that in %s", o.Name(), o.config.Bucket.Key)
	}
	if err != nil {
		return err
	}
	why, err := o.claim(ctx, true, false)
	return errors.Join(err, why)
}
