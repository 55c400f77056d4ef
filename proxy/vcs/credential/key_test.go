//go:build unix

package credential_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-proxy/assay/proxy/vcs/credential"
)

// The group may read a key only if it belongs to another user; no other user may read it, and only its
// owner may change it.
func TestKeyPermissions(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can give a file to another user")
	}
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		owner   int
		mode    os.FileMode
		refused bool
	}{
		{0, 0o600, false}, {0, 0o400, false}, {0, 0o440, true}, {0, 0o604, true},
		{65532, 0o440, false}, {65532, 0o640, false}, {65532, 0o460, true}, {65532, 0o620, true}, {65532, 0o444, true},
	} {
		if err := os.Chown(name, test.owner, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, test.mode); err != nil {
			t.Fatal(err)
		}
		_, err := (&credential.Key{File: name}).Signer() // the file is empty, which is another error
		if refused := err != nil && strings.Contains(err.Error(), "has permissions"); refused != test.refused {
			t.Errorf("a key of user %d with %#o: %v", test.owner, test.mode, err)
		}
	}
}
