package s3

import (
	"context"
	"net/http"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
)

// Silence sets how long a small request may have no answer.
func (db *DB) Silence(d time.Duration) { db.records.watch.silence = d }

// PartSize sets the size of the parts of an upload.
func (db *DB) PartSize(n int64) { db.records.part = n }

// OpenThrough is Open with the dialer of a transport.
func OpenThrough(ctx context.Context, o Options, t *http.Transport) (*DB, error) {
	db, err := Open(ctx, o)
	if err != nil {
		return nil, err
	}
	configure(t, o)
	db.records.client = sdk.New(db.records.client.Options(), func(s *sdk.Options) {
		s.HTTPClient = watched{limited{&http.Client{Transport: t}}, db.records.watch}
	})
	return db, nil
}
