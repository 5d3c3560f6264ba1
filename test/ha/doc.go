// Package ha kills, stops and resumes real masters under load and checks a ledger of
// what was acknowledged. Its tests need the tag e2e.
package ha
