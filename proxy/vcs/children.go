package vcs

import (
	"os/exec"
	"sync"
)

// children are the running commands. When a command is killed with its process group, its
// child processes become children of process 1. In a container that is often this program,
// and a dead process stays in the process table until its parent waits for its status. So
// as process 1 this program waits for every dead child except those of os/exec, which are
// recorded here.
type children struct {
	mu    sync.Mutex // held while a command is started, so that each child is recorded
	known map[int]struct{}
	ended chan struct{} // closed by close
	once  sync.Once     // of close
}

func newChildren() *children {
	return &children{known: map[int]struct{}{}, ended: make(chan struct{})}
}

// run is cmd.Run.
func (c *children) run(cmd *exec.Cmd) error {
	c.mu.Lock()
	err := cmd.Start()
	if err == nil {
		c.known[cmd.Process.Pid] = struct{}{}
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.known, cmd.Process.Pid)
	}()
	return cmd.Wait()
}

// close ends reaping. It may be called again.
func (c *children) close() { c.once.Do(func() { close(c.ended) }) }
