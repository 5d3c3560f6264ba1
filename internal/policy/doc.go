// Package policy decides: where a block belongs, which worker is asked first, what
// is evicted next, how far to read ahead. It holds pure functions and plain data
// structures, so that masters, workers and clients reach the same answer from the
// same facts, and so that a decision can be tested without a disk or a network.
//
// It refuses the world: no files, no sockets, no clock, no dice, no locks. What it
// returns is advice; the room that asked carries it out.
package policy
