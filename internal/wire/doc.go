// Package wire holds the messages that travel between masters, workers and clients
// and the commands that the journal keeps, as protobuf, with their conversion to the
// words of the root package. It decides nothing and opens no connection.
package wire

// EntryFormat is the version of [Entry] that this build writes; it reads this and all
// before it.
const EntryFormat = 1

// ClusterVersion is the highest cluster version whose commands and rules this build
// knows. A cluster uses a version only after a journaled RaiseVersion.
const ClusterVersion = 1

// The methods of the protocol. Numbers are for ever.
const (
	// To a master, from a client.
	MethodStat         = 1
	MethodList         = 2
	MethodOpen         = 3
	MethodMkdir        = 4
	MethodCreate       = 5
	MethodCommit       = 6
	MethodAbandon      = 7
	MethodRename       = 8
	MethodRemove       = 9
	MethodSetAttr      = 10
	MethodSymlink      = 11
	MethodOpenSession  = 12
	MethodRenewSession = 13
	MethodCloseSession = 14
	MethodAwait        = 15
	MethodMount        = 16
	MethodUnmount      = 17
	MethodMounts       = 18
	MethodReport       = 19
	MethodIntents      = 20
	MethodToken        = 21
	MethodPing         = 22
	MethodMasters      = 23
	MethodView         = 24

	// To a master, from a worker.
	MethodHeartbeat = 40
	MethodOrders    = 41

	// To a master, from another.
	MethodPeerHello    = 80
	MethodPeerPackets  = 81
	MethodPeerQuestion = 82

	// To a worker, from a client.
	MethodReadBlock = 60
	MethodOpenBlock = 61
	MethodWrite     = 62
	MethodSeal      = 63
	MethodDiscard   = 64
	MethodFree      = 65
	MethodHeld      = 66
	MethodRecall    = 67
)
