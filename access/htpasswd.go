package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	// rememberPassword is how long a right password is not hashed again.
	rememberPassword = 5 * time.Minute
	// maxCost bounds the time for one password: 16 takes some seconds.
	maxCost = 16
)

// htpasswd is the content of an htpasswd file.
type htpasswd struct {
	users map[string]string // bcrypt hashes by name
	cost  int               // the highest of them
}

// bcryptHash matches the output of htpasswd -B. The first group is the cost.
var bcryptHash = regexp.MustCompile(`^\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}$`)

// parseHtpasswd reads a file of lines name:hash.
func parseHtpasswd(data []byte) (*htpasswd, error) {
	h := &htpasswd{users: map[string]string{}}
	err := eachLine(data, func(line string) error {
		user, hash, ok := strings.Cut(line, ":")
		found := bcryptHash.FindStringSubmatch(hash)
		switch _, double := h.users[user]; {
		case !ok:
			return errors.New("there is no colon; want name:hash")
		case !goodName(user):
			return errors.New("the name of the user is empty, too long, or has white space or unprintable characters")
		case double:
			return fmt.Errorf("the user %s is listed twice; remove one of them", user)
		case found == nil:
			return fmt.Errorf("the password of %s is not hashed with bcrypt; set it again with: htpasswd -B FILE %s", user, user)
		}
		cost, _ := strconv.Atoi(found[1]) // two digits, so there is no error
		if cost < bcrypt.MinCost || cost > maxCost {
			return fmt.Errorf("the password of %s is hashed with a cost of %d; want %d to %d", user, cost, bcrypt.MinCost, maxCost)
		}
		h.users[user], h.cost = hash, max(h.cost, cost)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if h.cost == 0 {
		h.cost = bcrypt.DefaultCost
	}
	return h, nil
}

// memberships has the groups of each user.
type memberships map[string][]string

// parseGroups reads a file of lines "group: user user". A group with several lines has the members
// of all of them.
func parseGroups(data []byte) (memberships, error) {
	m := memberships{}
	err := eachLine(data, func(line string) error {
		group, users, ok := strings.Cut(line, ":")
		if !ok {
			return errors.New("there is no colon; want group: user user")
		}
		if group = strings.TrimSpace(group); !goodGroup(group) {
			return errors.New("the name of the group is empty, too long, or has white space, commas or unprintable characters")
		}
		for user := range strings.FieldsSeq(users) {
			if !goodName(user) {
				return fmt.Errorf("a member of %s has a name that is too long or unprintable", group)
			}
			if strings.Trim(user, ",") != user { // no user has such a name
				return fmt.Errorf("the members of %s are separated by blanks, without commas", group)
			}
			if !slices.Contains(m[user], group) {
				m[user] = append(m[user], group)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// passwords tries passwords, which is slow on purpose, and remembers the right ones.
type passwords struct {
	key   []byte // of the hashes below; it differs in each process, so a core dump of another one is of no use
	guard guard
	slots chan struct{}                     // one element for each hash that is computed
	hash  func(hash, password []byte) error // bcrypt.CompareHashAndPassword; tests count it

	mu    sync.Mutex // guards right
	right map[string]verified
}

// verified is a password that was right for the hash of its user.
type verified struct {
	mac   [sha256.Size]byte
	hash  string
	until time.Time
}

func newPasswords() *passwords {
	key := make([]byte, sha256.Size)
	rand.Read(key) // never fails
	return &passwords{
		key:   key,
		guard: guard{rows: map[string]*row{}},
		// Half of the processors are left for requests that need no hash.
		slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		hash:  bcrypt.CompareHashAndPassword,
		right: map[string]verified{},
	}
}

// check returns nil if the password is that of the user.
func (p *passwords) check(ctx context.Context, h *htpasswd, address, user, password string) error {
	mac, attempt := p.mac(user, password), attempt(p.mac(user, password, h.users[user]))
	judged := func() (done bool, err error) {
		switch {
		case p.remembered(h, user, mac):
			return true, nil
		case p.guard.knows(address, attempt):
			return true, h.wrong(user)
		}
		return false, nil
	}
	if done, err := judged(); done {
		return err
	}
	leave, err := p.guard.enter(ctx, address, attempt)
	if err != nil {
		return err
	}
	if done, err := judged(); done { // by an earlier request, often of the same client
		leave(false)
		return err
	}
	right, err := p.compare(ctx, h, user, password)
	if right { // before the next request is tried
		p.remember(user, verified{mac, h.users[user], time.Now().Add(rememberPassword)})
	}
	leave(err == nil && !right)
	if err != nil || right {
		return err
	}
	return h.wrong(user)
}

// wrong returns the error for a wrong password.
func (h *htpasswd) wrong(user string) error {
	if h.users[user] == "" {
		return refused("unknown user") // the name may be a password in the wrong place
	}
	return refused("wrong password for %s", user)
}

// compare hashes the password. It does the same work for an unknown user, and for one whose hash
// has a lower cost than others; otherwise the time would reveal which users exist.
func (p *passwords) compare(ctx context.Context, h *htpasswd, user, password string) (right bool, err error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return false, unavailable("the request ended before its password was tried: %w", context.Cause(ctx))
	}
	hash, ok := h.users[user]
	if !ok {
		p.hash(nobody(h.cost), []byte(password))
		return false, nil
	}
	if p.hash([]byte(hash), []byte(password)) == nil {
		return true, nil
	}
	// Each step doubles the work, so the steps from this cost on add up to the missing work.
	cost, _ := bcrypt.Cost([]byte(hash)) // parsed
	for ; cost < h.cost; cost++ {
		p.hash(nobody(cost), []byte(password))
	}
	return false, nil
}

// nobody returns a hash of the given cost that no password has.
func nobody(cost int) []byte {
	return fmt.Appendf(nil, "$2a$%02d$%s", cost, strings.Repeat(".", 53))
}

// mac returns the key under which a user, a password and more are in memory. It is keyed by this
// process, so that it cannot be found in lists of hashes.
func (p *passwords) mac(parts ...string) [sha256.Size]byte {
	h := hmac.New(sha256.New, p.key)
	h.Write([]byte(strings.Join(parts, "\x00"))) // no part contains a NUL
	return [sha256.Size]byte(h.Sum(nil))
}

func (p *passwords) remembered(h *htpasswd, user string, mac [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok := p.right[user]
	if !ok {
		return false
	}
	if h.users[user] != v.hash || !time.Now().Before(v.until) {
		delete(p.right, user)
		return false
	}
	return hmac.Equal(v.mac[:], mac[:])
}

// remember keeps one password for each user, so the map has no more elements than the file ever had
// users.
func (p *passwords) remember(user string, v verified) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.right[user] = v
}
