package vcs

import (
	"os/exec"
	"sync"
)

// children are the commands that run. When one is killed with its whole group, what it
// had started becomes the child of process 1. In a container that is often this program,
// and a dead process stays in the table until its parent has asked for its status. So as
// process 1 this program asks for the status of every dead child, but for those that
// os/exec waits for, which are known here.
type children struct {
	mu    sync.Mutex // held while a command is started, so that no child is unknown
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
