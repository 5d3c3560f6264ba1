// Package swift tries the driver of OpenStack Swift, and Sluice over it, on a real Swift
// with large objects of every sort, behind a proxy that cuts and hangs. It holds tests
// only; they run with the build tag e2e.
package swift
