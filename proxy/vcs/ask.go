package vcs

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/assay-proxy/assay/proxy/vcs/credential"
	"github.com/assay-proxy/assay/proxy/vcs/guard"
)

// asker sends our own requests to hosts of pages and repositories.
type asker struct {
	client      *http.Client
	credentials *credential.Set
}

// ask requests u for a module, with the credential for its host.
func (a *asker) ask(ctx context.Context, j job, u *url.URL) (*http.Response, error) {
	r, err := http.NewRequestWithContext(guard.WithReach(ctx, j.reach), http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %.200q is not a URL", ErrForbidden, u.Redacted())
	}
	auth, err := a.credentials.Find(ctx, j.module, j.reach, u)
	if err != nil {
		return nil, err
	}
	if auth != nil && auth.Header != "" {
		r.Header.Set("Authorization", auth.Header)
	}
	resp, err := a.client.Do(r)
	if err != nil {
		return nil, &guard.HostError{Host: u.Host, Err: guard.RequestError(err)}
	}
	return resp, nil
}
