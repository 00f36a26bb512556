// SPDX-License-Identifier: Apache-2.0

// Loadgen calls one unary gRPC method over one connection, with messages that were encoded before,
// and prints one JSON object: the rate, and quantiles of the latency in ms. It keeps so many calls in
// flight, or with a rate begins them at their moments, whatever is in flight: latencies then count
// from the moment a call was due, so that a stall is charged to all whom it kept.
//
// The file of messages holds, one behind the other, a length (uint32, little endian) and the bytes.
// A call has failed when its answer carries no message: then the status stands in the trailers alone.
package main

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sort"
	"time"
)

type report struct {
	CallsPerS float64 `json:"calls_per_s"`
	Calls     int     `json:"calls"`
	Failed    int     `json:"failed"`
	Seconds   float64 `json:"seconds"`
	P50Ms     float64 `json:"p50_ms"`
	P99Ms     float64 `json:"p99_ms"`
	P999Ms    float64 `json:"p999_ms"`
	MaxMs     float64 `json:"max_ms"`
}

func main() {
	address := flag.String("address", "", "HOST:PORT, plain text")
	method := flag.String("method", "", "/package.Service/Method")
	messages := flag.String("messages", "", "file of encoded messages, sent round and round")
	concurrency := flag.Int("concurrency", 1, "calls in flight, when no rate is given")
	rate := flag.Float64("rate", 0, "calls a second")
	warmup := flag.Float64("warmup", 1, "seconds before the clock runs")
	seconds := flag.Float64("seconds", 5, "seconds that are measured")
	flag.Parse()
	if flag.NArg() > 0 || *address == "" || *method == "" {
		flag.Usage()
		os.Exit(2)
	}
	bodies, err := read(*messages)
	if err != nil {
		log.Fatal(err)
	}
	connection, err := dial(*address, *method)
	if err != nil {
		log.Fatal(err)
	}
	now := time.Now()
	begin := now.Add(span(*warmup))
	calls := &load{bodies: bodies, begin: begin, end: begin.Add(span(*seconds))}
	if *rate > 0 {
		err = connection.runPaced(calls, now, span(1 / *rate))
	} else {
		err = connection.run(calls, *concurrency)
	}
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(calls.report(*seconds)); err != nil {
		log.Fatal(err)
	}
}

func span(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second))
}

// read gives each message in a gRPC frame: not compressed, its length.
func read(path string) ([][]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var bodies [][]byte
	for len(data) >= 4 {
		size := int(binary.LittleEndian.Uint32(data))
		if len(data) < 4+size {
			break
		}
		frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(size))
		bodies = append(bodies, append(frame, data[4:4+size]...))
		data = data[4+size:]
	}
	if len(bodies) == 0 || len(data) > 0 {
		return nil, fmt.Errorf("%s holds no whole messages", path)
	}
	return bodies, nil
}

// load hands out the next message and notes what became of a call.
type load struct {
	bodies    [][]byte
	next      int
	begin     time.Time
	end       time.Time
	failed    int
	latencies []time.Duration
}

func (l *load) body(now time.Time) []byte {
	if now.After(l.end) {
		return nil
	}
	l.next = (l.next + 1) % len(l.bodies)
	return l.bodies[l.next]
}

// ended counts whatever was due while the clock ran, however late its answer came.
func (l *load) ended(sent, now time.Time, answered bool) {
	if sent.Before(l.begin) {
		return
	}
	if !answered {
		l.failed++
		return
	}
	l.latencies = append(l.latencies, now.Sub(sent))
}

func (l *load) report(seconds float64) report {
	sort.Slice(l.latencies, func(a, b int) bool { return l.latencies[a] < l.latencies[b] })
	return report{
		CallsPerS: float64(len(l.latencies)) / seconds,
		Calls:     len(l.latencies),
		Failed:    l.failed,
		Seconds:   seconds,
		P50Ms:     l.quantile(0.5),
		P99Ms:     l.quantile(0.99),
		P999Ms:    l.quantile(0.999),
		MaxMs:     l.quantile(1),
	}
}

func (l *load) quantile(share float64) float64 {
	if len(l.latencies) == 0 {
		return 0
	}
	place := min(int(share*float64(len(l.latencies))), len(l.latencies)-1)
	return float64(l.latencies[place].Nanoseconds()) / 1e6
}
