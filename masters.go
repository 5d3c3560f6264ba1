package sluice

import "context"

// MasterMember is one of several masters, as the primary knows it.
type MasterMember struct {
	Node    uint64
	Address string // where clients, workers and the other masters reach it
	Primary bool
	Voter   bool  // false: it is catching up and gets its vote then
	Active  bool  // it was heard of lately
	Match   Index // the last entry of the journal it is known to have on disk
}

// MasterAdmin is what an operator may do about the masters themselves. Only the
// superuser may change them.
type MasterAdmin interface {
	// Members lists the masters in order of their nodes.
	Members(ctx context.Context) ([]MasterMember, error)
	// AddMaster takes in a master, which is then started with --join; it gets its vote
	// when it has caught up. Kind Exists: there is one of that node.
	AddMaster(ctx context.Context, node uint64, address string) error
	// RemoveMaster takes a master out, dead or alive. Kind Invalid says why it cannot go:
	// it is the primary, the last one, or one that a majority needs.
	RemoveMaster(ctx context.Context, node uint64) error
	// TransferMaster hands the place of the primary to a master, 0 being the one that is
	// furthest.
	TransferMaster(ctx context.Context, node uint64) error
}
