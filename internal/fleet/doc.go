// Package fleet owns the masters' soft knowledge of workers: which live, what they
// report, what they hold besides the order of the hash, and the orders that wait for
// them. All of it is rebuilt from heartbeats and lost with the process.
//
// It refuses to decide: it journals nothing, opens no connection, reads no clock but
// the one it is given, and starts no goroutine.
package fleet
