// Package sluice holds the words of Sluice: paths, ids, file attributes, mounts,
// errors, and the few contracts that several rooms share. [FS] is what a door
// (command line, mount, gateway) sees; [Master] and [Worker] are what the client
// library stands on.
//
// It imports the standard library only and everything of ours imports it. It
// refuses behaviour: nothing here opens a file, a connection or a goroutine.
package sluice
