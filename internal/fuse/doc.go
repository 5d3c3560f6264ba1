// Package fuse is the door for the kernel: it shows a [sluice.FS], or a part of it, as a
// file system to every program of this host. It owns the kernel's node and handle
// numbers, the local staging of what is being written, and the translation between the
// kernel's language and the words. It refuses caching of bytes (the kernel and the
// client library do that), policy, and every way to the data but the FS it is given.
//
// A node that the kernel knows stands for one version of a file. When the file gets
// other content from elsewhere, its name leads to a new node with the same inode number;
// who has the old one open keeps reading the old version, and an open of the old node
// answers ESTALE, after which the kernel looks the name up again. What is written through
// this mount moves the node to the version it published, so that all handles of one
// mount, and the locks on them, meet at one node.
//
// The mount must not be used from the process that serves it, except by tests that know
// that go-fuse ties up a thread for each side of such a call.
package fuse
