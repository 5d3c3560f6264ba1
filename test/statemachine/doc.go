// Package statemachine tries the state machine of the masters (internal/namespace) from
// outside, through commands and answers alone: text scripts that read like a manual,
// random commands against a simple model, logs that are repeated or cut anywhere, and
// bytes of any kind. It holds tests only.
package statemachine
