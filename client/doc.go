// Package client is the Go library of Sluice: a file system ([sluice.FS]) made of a
// master and many workers. It finds the primary master, keeps a session with it, picks
// workers, reads local blocks through passed descriptors and remote ones by frames,
// reads ahead, retries what may be retried exactly once, and falls back to the under
// store where a mount allows it.
//
// It decides nothing about the namespace, keeps no bytes beyond its bounded buffers,
// and imports no driver: which stores it can read itself is a registry it is given.
package client
