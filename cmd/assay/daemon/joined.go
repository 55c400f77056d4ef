package daemon

import "net"

// joined makes the two parts in which net/http sends a response leave with one system call: net/http has
// a buffer of 4 KiB for each connection, and sends what fits into it, and then the rest. joined keeps the
// first part back.
type joined struct {
	room []byte // for the first part; nil: nothing is kept back
	held []byte // the first part, in room
}

const (
	httpBuffer = 4 << 10 // of net/http

	// Smaller bodies fit into the buffer of net/http with the header. For larger ones, the second
	// system call is a small part of the work.
	joinedLeast = 2 << 10
	joinedMost  = 64 << 10
)

// hold makes the next write keep its data in room.
func (j *joined) hold(room []byte) { j.room = room }

// write sends data. After hold, it keeps the first data until the next call or until release.
func (j *joined) write(conn net.Conn, data []byte) (int, error) {
	if j.room == nil {
		return conn.Write(data)
	}
	if j.held == nil && len(data) <= len(j.room) {
		j.held = j.room[:copy(j.room, data)]
		return len(data), nil
	}
	first := len(j.held)
	both := net.Buffers{j.held, data}
	*j = joined{}
	n, err := both.WriteTo(conn)
	return max(0, int(n)-first), err
}

// release sends what is still kept.
func (j *joined) release(conn net.Conn) (err error) {
	held := j.held
	*j = joined{}
	if held != nil {
		_, err = conn.Write(held)
	}
	return err
}
