// Package cluster is a whole cluster in one process, for tests: a master and workers as
// cmd/sluice assembles them, over unix sockets in a short temporary directory, with the
// drivers file, s3 and mem. It owns starting, stopping and dropping the parts and their
// end with the test; it refuses behaviour of its own, and nothing in it is shared between
// two clusters.
package cluster
