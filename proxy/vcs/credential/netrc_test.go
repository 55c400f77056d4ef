package credential_test

import (
	"testing"

	"github.com/assay-proxy/assay/proxy/vcs/credential"
)

func FuzzNetrc(f *testing.F) {
	f.Add("machine a login b password c\n")
	f.Add("machine a\nlogin b # x\npassword c\nmacdef m\nmachine z login y password x\n\ndefault login d password e")
	f.Fuzz(func(t *testing.T, text string) {
		for _, line := range credential.ParseNetrc(text) {
			if line[0] == "" || line[1] == "" || line[2] == "" {
				t.Errorf("%q gives %q", text, line)
			}
		}
	})
}
