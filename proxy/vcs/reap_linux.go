package vcs

import (
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reapEvery is how soon a look is repeated when a child of os/exec, for which it will
// ask itself, is in the way.
const reapEvery = 50 * time.Millisecond

// reapOrphans begins to ask for the status of orphans if this is process 1.
func (c *children) reapOrphans() {
	if os.Getpid() != 1 {
		return
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD)
	go func() {
		defer signal.Stop(signals)
		for {
			var again <-chan time.Time
			if !c.reap() {
				again = time.After(reapEvery)
			}
			select {
			case <-signals:
			case <-again:
			case <-c.ended:
				return
			}
		}
	}()
}

// reap asks for the status of all dead children but the known ones. It returns false if
// it has to look again, because it met one of those.
func (c *children) reap() bool {
	for {
		known, pid := c.reapOne()
		if known {
			return false
		}
		if pid == 0 {
			return true
		}
	}
}

// reapOne asks for the status of a dead child, if there is one and it is not known.
func (c *children) reapOne() (known bool, pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pid = deadChild(); pid == 0 {
		return false, 0
	}
	if _, known := c.known[pid]; known {
		return true, pid
	}
	_, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
	if err != nil {
		return false, 0 // there is none any more
	}
	return false, pid
}

// childInfo is the part of siginfo_t that waitid fills in (see package os).
type childInfo struct {
	_   [3]int32
	_   [is64Bit]int32
	pid int32
}

const is64Bit = ^uint(0) >> 63

// deadChild returns a child that is dead and not yet asked for its status, 0 if there is
// none. It stays so.
func deadChild() int {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0 // there are no children
		}
		return int((*childInfo)(unsafe.Pointer(&info)).pid)
	}
}
