package sluice

import "time"

// Mount is one entry of the mount table, without its secrets.
type Mount struct {
	ID      MountID
	Path    Path   // where it appears; a directory made for it, shadowing what the outer mount has there
	URI     string // the store, such as s3://bucket/prefix or file:///data
	Options MountOptions
}

// MountOptions are what an operator may say about a mount. Zero values are useful.
type MountOptions struct {
	ReadOnly   bool
	Freshness  Freshness         // default every 1m
	WriteType  WriteType         // of files created below it; default CACHE_THROUGH
	BlockSize  int64             // bytes; default DefaultBlockSize
	Owner      string            // of what the store has no owner for; default the one who mounts
	Group      string            // likewise
	FileMode   Mode              // of files the store has no mode for; default 0644
	DirMode    Mode              // of directories the store has no mode for; default 0755
	Markers    bool              // mkdir and rmdir write and delete an empty "d/" in an object store
	Direct     bool              // clients may read the store themselves with the mount's settings
	Shared     bool              // everybody may read its options
	Timeout    time.Duration     // of one call to the store; default 30s
	Concurrent int               // calls to the store at once per process; default 64
	Bandwidth  int64             // bytes per second per process from and to the store; 0 is unlimited
	Settle     time.Duration     // for stores without conditional reads: younger versions are not cached; default 2s
	Properties map[string]string // the driver's own settings (region, endpoint, path style, ...), no secrets
}

// Secrets are the parts of a mount's settings that nobody may see: access keys,
// tokens. A value is literal, or a reference "file:/path" or "env:NAME" that each
// server resolves for itself. Its String shows none of it.
type Secrets map[string]string

// String hides the values.
func (s Secrets) String() string {
	if len(s) == 0 {
		return "{}"
	}
	return "{hidden}"
}

// GoString hides the values.
func (s Secrets) GoString() string { return s.String() }

// Health is how a mount's store fares as seen by one server.
type Health struct {
	OK        bool
	Message   string    // the last failure
	Since     time.Time // when OK last changed
	Breaker   string    // closed, open, half-open
	InFlight  int
	Checked   string // "conditional", "checked", or "conditional, writes checked": how reads and changes are tied to a version
	Skipped   int64  // keys seen that are no valid paths
	Intents   int    // changes of this mount under way
	Errors    int64
	Calls     int64
	BytesRead int64
	BytesSent int64
}

// MountInfo is a mount with its health.
type MountInfo struct {
	Mount
	Health Health
}
