// Package scale tries how large things may get: a master with millions of files, a worker
// with a hundred thousand blocks, a client that reads far more than its memory. It holds
// tests only, of real processes; short forms run with the tag e2e, the full ones where
// SLUICE_SOAK is set. It judges memory and correctness and prints times, which are for
// docs/benchmarks.md.
package scale
