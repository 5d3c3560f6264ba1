// Package rpc carries requests, answers and raw bytes between Sluice's processes:
// framed, multiplexed, over TCP, TLS and unix sockets, with file descriptors passed
// over the latter. It proves who both ends are and knows nothing of what they say:
// methods are numbers, messages are bytes, and what a peer may do is decided by the
// handler. docs/format/rpc.md describes every byte.
package rpc
