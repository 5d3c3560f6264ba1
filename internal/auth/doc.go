// Package auth holds the cluster's keys and what is made with them: grants for
// blocks, tokens for users, proofs between servers, sealed secrets, and TLS
// configurations. It decides nothing: whether a caller may do something is the
// master's and the worker's business. No key, token or opened secret ever appears
// in one of its errors or String methods.
package auth
