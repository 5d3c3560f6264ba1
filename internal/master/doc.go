// Package master is the desk of the cluster: it authenticates and authorises callers,
// asks under stores, gathers commands into journal entries, carries out intents, keeps
// sessions and their notices alive, and gives workers their orders.
//
// It decides nothing about the tree: every check is made by the state machine
// (internal/namespace) when a command is applied. No call to a store is made under a
// lock, and bytes of files never pass through it.
package master
