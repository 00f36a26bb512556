// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"time"
)

// Frames and settings of HTTP/2 (RFC 9113, sections 6 and 6.5.2).
const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	typeData, typeHeaders, typeReset, typeSettings = 0, 1, 3, 4
	typePing, typeGoAway, typeWindow               = 6, 7, 8

	flagEndStream, flagAck, flagEndHeaders = 1, 1, 4

	settingStreams, settingWindow, settingFrame = 3, 4, 5
	windowDefault, frameDefault = 65_535, 16_384
	windowOurs                  = 1 << 30
	bufferSize                  = 1 << 20
)

// call is what is in flight on one stream.
type call struct {
	sent     time.Time
	rest     []byte // of its message, what the windows did not let out yet
	window   int
	answered bool
}

// connection is one HTTP/2 connection that one goroutine serves: it reads, and answers what it read
// by the next call, so that nothing is handed between threads.
type connection struct {
	socket  net.Conn
	in      *bufio.Reader
	out     *bufio.Writer
	headers []byte // the same for every call
	calls   map[uint32]*call
	next    uint32
	window  int // what the peer takes on the connection
	initial int // and on a new stream
	frame   int // and in one frame
	streams int // and at once
	taken   int // bytes received and not yet granted again
	waiting []uint32
	closed  bool // an answer begins the next call
	scratch []byte
}

func dial(address, method string) (*connection, error) {
	socket, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	c := &connection{
		socket:  socket,
		in:      bufio.NewReaderSize(socket, bufferSize),
		out:     bufio.NewWriterSize(socket, bufferSize),
		headers: headerBlock(address, method),
		calls:   map[uint32]*call{},
		next:    1,
		window:  windowDefault,
		initial: windowDefault,
		frame:   frameDefault,
		streams: math.MaxInt,
	}
	_, err = c.out.WriteString(preface)
	settings := binary.BigEndian.AppendUint32([]byte{0, settingWindow}, windowOurs)
	c.write(typeSettings, 0, 0, settings)
	c.write(typeWindow, 0, 0, binary.BigEndian.AppendUint32(nil, windowOurs-windowDefault))
	return c, err
}

// headerBlock is HPACK without a table: literal fields that are never indexed (RFC 7541, 6.2.2),
// which every peer decodes the same for every call.
func headerBlock(address, method string) []byte {
	var block []byte
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", address},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"grpc-timeout", "10S"},
	} {
		block = append(block, 0)
		for _, text := range field {
			if len(text) > 126 {
				panic("a header is too long for one byte of length: " + text)
			}
			block = append(append(block, byte(len(text))), text...)
		}
	}
	return block
}

// run keeps `concurrency` calls in flight until there are no more.
func (c *connection) run(calls *load, concurrency int) error {
	c.closed = true
	for range concurrency {
		c.begin(calls, time.Now())
	}
	for len(c.calls) > 0 {
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.step(calls); err != nil {
			return err
		}
	}
	return nil
}

// runPaced begins a call each `gap` until there are no more; one that the peer does not take yet waits,
// and its time counts.
func (c *connection) runPaced(calls *load, due time.Time, gap time.Duration) error {
	more := true
	for {
		for more && len(c.calls) < c.streams && !due.After(time.Now()) {
			more = c.begin(calls, due)
			due = due.Add(gap)
		}
		if !more && len(c.calls) == 0 {
			return nil
		}
		if err := c.flush(); err != nil {
			return err
		}
		if more && len(c.calls) < c.streams && !c.readable(due) {
			continue
		}
		if err := c.step(calls); err != nil {
			return err
		}
	}
}

// flush lets go what is written when nothing more was read.
func (c *connection) flush() error {
	if c.in.Buffered() > 0 {
		return nil
	}
	return c.out.Flush()
}

// readable waits for something to read, not beyond the moment; what else goes wrong step tells.
func (c *connection) readable(until time.Time) bool {
	if c.in.Buffered() > 0 {
		return true
	}
	_ = c.socket.SetReadDeadline(until)
	_, err := c.in.Peek(1)
	_ = c.socket.SetReadDeadline(time.Time{})
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

func (c *connection) begin(calls *load, at time.Time) bool {
	body := calls.body(at)
	if body == nil {
		return false
	}
	stream := c.next
	c.next += 2
	c.calls[stream] = &call{sent: at, rest: body, window: c.initial}
	c.write(typeHeaders, flagEndHeaders, stream, c.headers)
	c.send(stream)
	return true
}

// send writes as much of the message as the windows allow.
func (c *connection) send(stream uint32) {
	current := c.calls[stream]
	for current != nil && len(current.rest) > 0 {
		size := min(len(current.rest), c.frame, c.window, current.window)
		if size <= 0 {
			c.waiting = append(c.waiting, stream)
			return
		}
		var flags byte
		if size == len(current.rest) {
			flags = flagEndStream
		}
		c.write(typeData, flags, stream, current.rest[:size])
		current.rest = current.rest[size:]
		c.window -= size
		current.window -= size
	}
}

func (c *connection) sendWaiting() {
	waiting := c.waiting
	c.waiting = nil
	for _, stream := range waiting {
		c.send(stream)
	}
}

func (c *connection) step(calls *load) error {
	var head [9]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return err
	}
	size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	if cap(c.scratch) < size {
		c.scratch = make([]byte, size)
	}
	payload := c.scratch[:size]
	if _, err := io.ReadFull(c.in, payload); err != nil {
		return err
	}
	kind, flags := head[3], head[4]
	stream := binary.BigEndian.Uint32(head[5:]) & 0x7fffffff
	switch kind {
	case typeData:
		c.calls[stream].answered = true
		c.grant(size)
	case typeSettings:
		c.settle(flags, payload)
	case typePing:
		if flags&flagAck == 0 {
			c.write(typePing, flagAck, 0, payload)
		}
	case typeWindow:
		c.widen(stream, int(binary.BigEndian.Uint32(payload)&0x7fffffff))
	case typeGoAway:
		return fmt.Errorf("the server went away: %q", payload)
	}
	if kind == typeReset {
		c.calls[stream].answered = false
	}
	ends := (kind == typeData || kind == typeHeaders) && flags&flagEndStream != 0
	if kind == typeReset || ends {
		c.finish(calls, stream)
	}
	return nil
}

func (c *connection) finish(calls *load, stream uint32) {
	ended := c.calls[stream]
	delete(c.calls, stream)
	now := time.Now()
	calls.ended(ended.sent, now, ended.answered)
	if c.closed {
		c.begin(calls, now)
	}
}

// grant lets the server send on; streams never need it, theirs is larger than an answer.
func (c *connection) grant(size int) {
	c.taken += size
	if c.taken > windowOurs/4 {
		c.write(typeWindow, 0, 0, binary.BigEndian.AppendUint32(nil, uint32(c.taken)))
		c.taken = 0
	}
}

func (c *connection) settle(flags byte, payload []byte) {
	if flags&flagAck != 0 {
		return
	}
	for ; len(payload) >= 6; payload = payload[6:] {
		value := int(binary.BigEndian.Uint32(payload[2:]))
		switch binary.BigEndian.Uint16(payload) {
		case settingWindow:
			for _, each := range c.calls {
				each.window += value - c.initial
			}
			c.initial = value
		case settingFrame:
			c.frame = value
		case settingStreams:
			c.streams = value
		}
	}
	c.write(typeSettings, flagAck, 0, nil)
	c.sendWaiting()
}

func (c *connection) widen(stream uint32, by int) {
	if stream == 0 {
		c.window += by
	} else if current := c.calls[stream]; current != nil {
		current.window += by
	}
	c.sendWaiting()
}

// write puts a frame into the buffer; its errors are kept there and told by Flush.
func (c *connection) write(kind, flags byte, stream uint32, payload []byte) {
	var head [9]byte
	size := len(payload)
	head[0], head[1], head[2] = byte(size>>16), byte(size>>8), byte(size)
	head[3], head[4] = kind, flags
	binary.BigEndian.PutUint32(head[5:], stream)
	_, _ = c.out.Write(head[:])
	_, _ = c.out.Write(payload)
}
