package vcs

import (
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reapEvery is the pause before another attempt if the next dead child is one of os/exec,
// which waits for it itself.
const reapEvery = 50 * time.Millisecond

// reapOrphans starts to wait for orphans if this is process 1.
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

// reap waits for all dead children except the recorded ones. It returns false if it must
// be called again, because the next one is recorded.
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

// reapOne waits for a dead child, if there is one that is not recorded.
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
		return false, 0 // it is gone
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

// deadChild returns a dead child that nothing has waited for, 0 if there is none. It does
// not wait for it.
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
