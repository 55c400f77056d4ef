package daemon

import "github.com/assay-proxy/assay/cmd/assay/config"

// The limits of what a client may send, and how slowly.
const (
	BodyTime  = bodyTime
	MaxHook   = maxHook
	MaxHooks  = maxHooks
	SmallHook = smallHook
)

// CheckCertificates reads the TLS files of the settings.
func CheckCertificates(c config.Config) error {
	_, err := newCertificates(c, nil)
	return err
}
