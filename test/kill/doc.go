// Package kill tries the promises on real processes: master, worker and writers get
// kill -9 at random moments while a ledger keeps what was acknowledged. It holds tests
// only.
package kill
