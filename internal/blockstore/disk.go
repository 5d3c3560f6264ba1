package blockstore

import (
	"io"
	"os"
)

// Disk is the seam to the disks: [OSDisk] in production, [MemDisk] in tests and in
// the simulation. Names are slash-separated paths. Errors are those of package os:
// fs.ErrNotExist, fs.ErrExist, and errno values such as ENOSPC and EIO are
// recognised with errors.Is. All methods may be called at once.
type Disk interface {
	// Open opens a file as mode says.
	Open(name string, mode OpenMode) (File, error)
	// Rename replaces to by from in one step.
	Rename(from, to string) error
	// Remove unlinks a file; open files stay readable.
	Remove(name string) error
	// List calls each with the names in a directory, in any order.
	List(dir string, each func(name string) error) error
	// MakeDir makes a directory and its parents; it may exist.
	MakeDir(dir string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// Lock takes the lock file name for this process until it is closed; an error of
	// kind Busy where another holds it.
	Lock(name string) (io.Closer, error)
	// Usage describes the file system that holds dir.
	Usage(dir string) (Usage, error)
}

// OpenMode says how [Disk.Open] opens.
type OpenMode uint8

// The modes.
const (
	ReadOnly  OpenMode = iota // an existing file
	ReadWrite                 // an existing file
	CreateNew                 // fs.ErrExist where the name is taken; read and write
)

// File is an open file. ReadAt and WriteAt may be called at once.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Truncate sets the length; what is added reads as zeros and takes no space.
	Truncate(size int64) error
	// Sync makes data and length durable.
	Sync() error
	// Size is the length in bytes.
	Size() (int64, error)
}

// Descriptor is an optional capability of a [File]: an open file of the operating
// system, which can be passed to another process. It belongs to the File.
type Descriptor interface {
	OS() *os.File
}

// Usage describes a file system.
type Usage struct {
	Total, Free int64 // bytes
	Unit        int64 // bytes: allocation is rounded up to it
	Huge        bool  // a tmpfs with huge pages: whole 2 MiB of a file are allocated at once
	Volatile    bool  // memory: there is nothing to sync to
}
