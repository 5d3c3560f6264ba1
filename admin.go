package sluice

import "context"

// Admin is what an operator may ask of a cluster.
type Admin interface {
	Mounter
	// Report describes the cluster.
	Report(ctx context.Context) (Report, error)
	// Intents lists changes of stores that are under way, oldest first.
	Intents(ctx context.Context) ([]IntentInfo, error)
}

// Mounter keeps the mount table. Only the superuser changes it.
type Mounter interface {
	// Mount puts the store at path, after asking it whether it answers and lets itself
	// be listed. Kind Invalid says which setting is wrong.
	Mount(ctx context.Context, path Path, uri string, opts MountOptions, secrets Secrets) (MountInfo, error)
	// Unmount takes it away and leaves the store alone. Kind Busy where something of the
	// mount is not in the store yet, unless force.
	Unmount(ctx context.Context, path Path, force bool) error
	// Mounts lists the mounts with their health, in path order, never with secrets.
	Mounts(ctx context.Context) ([]MountInfo, error)
}

// Report is a cluster at one moment.
type Report struct {
	Cluster     string
	Version     string
	Incarnation Incarnation
	Masters     []MasterInfo
	Workers     []WorkerReport
	Mounts      []MountInfo
	Files       int64
	Warnings    []string
}

// MasterInfo is one master.
type MasterInfo struct {
	Name, Address string
	Primary       bool
	Applied       Index
	Term          Term
	Sessions      int
	Uptime        int64 // seconds
	Resident      int64 // bytes
}

// WorkerReport is a worker with its counters.
type WorkerReport struct {
	WorkerInfo
	Live        bool
	Unpersisted int64 // bytes that exist only here
	Pinned      int64 // bytes
	HitBytes    int64 // served from the cache
	MissBytes   int64 // fetched from stores
	Evicted     int64 // blocks
	Corrupt     int64 // chunks that failed their checksum, dropped
}

// IntentInfo is one change of a store that is under way.
type IntentInfo struct {
	ID       uint64
	Mount    MountID
	Op       string // what is to be done, such as "commit" or "rename"
	Path, To Path
	Age      int64  // seconds of journal time
	State    string // waiting, running, diverged
	Message  string // the last failure
	Attempts int
}
