package master

import (
	"testing"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
	"github.com/sluicefs/sluice/underfs/underfstest"
)

// eventually polls until done says so.
func (d *desk) eventually(what string, done func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// TestAnswersThatNobodySawHaveTheirEffect: the desk's own memory follows the state also
// where the caller left between the journal and the answer.
func TestAnswersThatNobodySawHaveTheirEffect(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.SessionLease = 300 * time.Millisecond })
	_, err := d.propose(t.Context(), &wire.Command{Op: &wire.Command_OpenSession{OpenSession: &wire.OpenSession{Session: 4711}}})
	d.want("open session", err)
	d.eventually("the session ends", func() bool {
		all, err := d.state.Sessions()
		d.want("sessions", err)
		for _, s := range all {
			if s.ID == 4711 {
				return false
			}
		}
		return true
	})
	mem := underfstest.NewMemory(underfstest.Options{})
	d.driver.Add("b", mem)
	mem.Put("f", []byte("hello"))
	_, err = d.propose(t.Context(), &wire.Command{Op: &wire.Command_MountStore{MountStore: &wire.MountStore{
		Path: "/m", Uri: "mem://b", Options: wire.FromMountOptions(sluice.MountOptions{}),
	}}})
	d.want("mount", err)
	d.eventually("the mount is used", func() bool {
		_, err := d.Stat(t.Context(), d.read(), "/m/f", sluice.StatOptions{})
		return err == nil
	})
}
