// Package namespace is the state machine of the masters: the tree of files, mounts,
// permissions, client sessions, remembered answers and open intents. Typed commands
// ([wire.Entry]) go in by [State.Apply], answers come out, equal on every replica. It
// is kept in a [keyvalue.DB] (docs/format/namespace.md).
//
// It refuses a clock, dice, a network, a disk of its own and goroutines: time comes
// stamped on the entries, ids from counters in the state. It never asks a store
// anything: what a store was seen to have is a command, and what a store shall do is an
// [Intent] that somebody else carries out.
package namespace
